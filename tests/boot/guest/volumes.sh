# Finds the Windows volume, and does what the boot code in front of Windows' loader would check.

# Every partition and disk whose boot sector says NTFS.
ntfs_volumes() {
  for entry in /sys/class/block/*; do
    name=${entry##*/}
    case $name in loop* | ram* | sr* | fd*) continue ;; esac
    [ "$(dd "if=/dev/$name" bs=1 skip=3 count=8 2>/dev/null)" != 'NTFS    ' ] || echo "$name"
  done
}

# Mounts on /windows, read-only, the first volume with a SYSTEM hive; sets VOLUME (sda2) and DISK (sda).
find_windows() {
  VOLUME=
  while [ -z "$VOLUME" ]; do
    for name in $(ntfs_volumes); do
      mount_ntfs "$name" /windows ro || continue
      if [ -e /windows/Windows/System32/config/SYSTEM ]; then
        VOLUME=$name
        break
      fi
      umount /windows
    done
    [ -n "$VOLUME" ] || [ "$(cut -d . -f 1 /proc/uptime)" -lt 60 ] ||
      stop 0xc000000f '\Windows\System32\config\SYSTEM: no NTFS volume of these disks holds it'
    [ -n "$VOLUME" ] || sleep 0.2
  done
  DISK=$(disk_of "$VOLUME")
}

# lowntfs-3g compares names without case, as Windows does.
mount_ntfs() {
  lowntfs-3g -o "$3,ignore_case" "/dev/$1" "$2" 2>/dev/null
}

disk_of() {
  if [ -e "/sys/class/block/$1/partition" ]; then
    basename "$(dirname "$(readlink -f "/sys/class/block/$1")")"
  else
    echo "$1"
  fi
}

# Whether the Windows volume holds the file \h2k-lab\NAME (or \h2k-lab-NAME).
knob() {
  [ -e "/windows/h2k-lab/$1" ] || [ -e "/windows/h2k-lab-$1" ]
}

# UEFI found this program at the boot manager's path, so that much holds. Under BIOS GRUB brought it here, which asks
# for less than the boot code of Windows: an active partition, and \bootmgr in it. (A table with other status bytes than
# 0 and 0x80 GRUB does not take either.)
firmware_starts_boot_manager() {
  [ ! -d /sys/firmware/efi ] || return 0
  find_grub_disk
  active=
  number=0
  for flag in $(od -An -v -tx1 -j 446 -N 64 "/dev/$GRUB_DISK" | awk '{ print $1 }'); do
    number=$((number + 1))
    [ "$flag" != 80 ] || active=${active:-$number}
  done
  [ -n "$active" ] || stop 'No bootable device' "no partition of $GRUB_DISK is active"
  mount_ntfs "$(partition_name "$GRUB_DISK" "$active")" /boot-partition ro ||
    stop 'A disk read error occurred' "partition $active of $GRUB_DISK is active and no NTFS volume"
  [ -s /boot-partition/bootmgr ] || stop 'BOOTMGR is missing' "\\bootmgr of the active partition $active: missing or empty"
  umount /boot-partition
}

# The disk with the lab's GRUB in its MBR ("GRUB" at 0x180): GRUB_DISK.
find_grub_disk() {
  until [ "$(cut -d . -f 1 /proc/uptime)" -ge 60 ]; do
    for entry in /sys/block/*; do
      GRUB_DISK=${entry##*/}
      [ "$(dd "if=/dev/$GRUB_DISK" bs=1 skip=384 count=4 2>/dev/null)" != GRUB ] || return 0
    done
    sleep 0.2
  done
  stop 'No bootable device' "no disk that Linux sees has the lab's GRUB"
}

partition_name() {
  for entry in /sys/block/"$1"/"$1"*; do
    [ "$(cat "$entry/partition")" != "$2" ] || echo "${entry##*/}"
  done
}

# From here on Windows would write: WRITABLE is yes when the volume lets us (ntfs-3g makes a hibernated one read-only).
volume_writable() {
  WRITABLE=no
  umount /windows
  if mount_ntfs "$VOLUME" /windows rw && touch "$CONFIG/SYSTEM"; then
    WRITABLE=yes
    ! knob only-first || touch /windows/h2k-lab-booted
  else
    say "{\"note\":\"the Windows volume can not be written\"}"
  fi
}

volume_closed() {
  sync
  umount /windows
  sync
}
