# What the stand-in for Windows Setup does. Each thing that it refuses is one that Setup would refuse or stop at.

ANSWERS=/run/config/autounattend.xml
KIT='h2k-kit'

# A line on COM1, as h2k-kit\setup.cmd writes it: told STEP STATE
told() {
  printf '\n%s {"v":1,"step":"%s","state":"%s"}\n' "$KIT" "$1" "$2" >&3
}

# Setup stops: the reason on the screen and on COM1, and the machine stays on, as Windows' would.
fail() {
  screen '97;44' 'h2k kit: the stand-in for Windows Setup stops' '' "$1"
  printf '\n%s {"v":1,"step":"setup","state":"failed","why":"%s"}\n' "$KIT" "$(json "$1")" >&3
  while :; do sleep 3600; done
}

# The CDs: the installation's, the one with autounattend.xml in its root, and virtio-win.
find_media() {
  tries=0
  mkdir -p /run/cd
  MEDIA='' CONFIG_CD='' DRIVERS_CD=''
  while [ "$tries" -lt 100 ] && { [ -z "$MEDIA" ] || [ -z "$CONFIG_CD" ] || [ -z "$DRIVERS_CD" ]; }; do
    for entry in /sys/block/sr*; do
      device=/dev/${entry##*/}
      mount -t iso9660 -o ro "$device" /run/cd 2>/dev/null || continue
      if [ -e /run/cd/sources/install.wim ]; then MEDIA=$device; fi
      if [ -e /run/cd/autounattend.xml ]; then CONFIG_CD=$device; fi
      if [ -e /run/cd/viostor ] || [ -e /run/cd/guest-agent ]; then DRIVERS_CD=$device; fi
      umount /run/cd
    done
    sleep 0.1
    tries=$((tries + 1))
  done
  [ -n "$MEDIA" ] || fail 'no CD has \sources\install.wim'
  [ -n "$CONFIG_CD" ] || fail 'no CD has autounattend.xml in its root: Setup would ask for everything'
  [ -n "$DRIVERS_CD" ] || fail 'no CD is virtio-win'
  mount -t iso9660 -o ro "$MEDIA" /run/media
  mount -t iso9660 -o ro "$CONFIG_CD" /run/config
}

# all TAG: the texts of all elements of that name, a line each; in PASS TAG: of one configuration pass.
all() {
  tr -d '\r\n' <"$ANSWERS" | grep -o "<$1>[^<]*</$1>" | sed 's/<[^>]*>//g'
}

in_pass() {
  tr -d '\r\n' <"$ANSWERS" | sed "s/.*<settings pass=\"$1\">//; s/<\\/settings>.*//" | grep -o "<$2>[^<]*</$2>" | sed 's/<[^>]*>//g'
}

read_answers() {
  grep -q 'urn:schemas-microsoft-com:unattend' "$ANSWERS" || fail 'autounattend.xml is no answer file'
  KEY=$(all Key)
  INDEX=$(all Value | head -n 1)
  PARTITIONS=$(all Type | tr '\n' ' ')
  TARGET=$(tr -d '\r\n' <"$ANSWERS" | sed 's/.*<InstallTo>//; s/<\/InstallTo>.*//' | grep -o '<PartitionID>[^<]*' | sed 's/.*>//')
  ARCHITECTURE=$(grep -o 'processorArchitecture="[^"]*"' "$ANSWERS" | sort -u | sed 's/.*="//; s/"//')
  COMPUTER=$(in_pass specialize ComputerName)
}

check_answers() {
  [ "$KEY" = /IMAGE/INDEX ] || fail "the image is chosen by $KEY, which the stand-in does not know"
  IMAGE=/run/media/sources/$INDEX
  [ -e "$IMAGE.gz" ] || fail "install.wim has no image $INDEX"
  [ "$(in_pass windowsPE AcceptEula)" = true ] || fail 'the licence is not accepted'
  [ "$(all WillWipeDisk)" = true ] || fail 'the disk is not to be wiped'
  [ "$ARCHITECTURE" = "$(cat "$IMAGE.arch")" ] || fail "components for $ARCHITECTURE do not apply to this image"
  ! grep -q '<ProductKey>' "$ANSWERS" || fail 'a product key is entered, and the kit enters none'
  if [ -d /sys/firmware/efi ]; then
    [ "$PARTITIONS" = 'EFI MSR Primary ' ] || fail "under UEFI the partitions are $PARTITIONS"
    [ "$TARGET" = 3 ] || fail "Windows is to go to partition $TARGET"
  else
    [ "$PARTITIONS" = 'Primary Primary ' ] || fail "under BIOS the partitions are $PARTITIONS"
    [ "$(all Active)" = true ] || fail 'no partition is active'
    [ "$TARGET" = 2 ] || fail "Windows is to go to partition $TARGET"
  fi
  [ "$(cat "$IMAGE.firmware")" = "$([ -d /sys/firmware/efi ] && echo uefi || echo bios)" ] ||
    fail "the made guest of image $INDEX is laid out for the other firmware: choose another image"
  for command in $(all CommandLine | grep -o 'h2k-kit\\[a-z.]*' | sort -u); do
    [ -e "/run/config/$(echo "$command" | tr '\\' '/')" ] || fail "the configuration CD has no $command"
  done
  [ -n "$(all CommandLine)" ] || fail 'nothing is to run at the first logon'
}

# The disks that are no CD, by controller and port: the kernel gives out sda and sdb in the order in which they answer.
disks() {
  for entry in /sys/block/sd*; do
    if [ -e "$entry" ]; then readlink -f "$entry"; fi
  done | sort
}

# Disk 0: the first, when for two seconds no other has come. Waits for it, as Setup does.
lay_out_disk() {
  tries=0 known=''
  while { [ -z "$known" ] || [ "$known" != "$(disks)" ]; } && [ "$tries" -lt 20 ]; do
    known=$(disks)
    sleep 2
    tries=$((tries + 1))
  done
  DISK0=/dev/$(basename "$(echo "$known" | head -n 1)")
  [ -b "$DISK0" ] || fail 'Setup finds no disk: the controller has no driver here'
  zcat "$IMAGE.gz" | dd "of=$DISK0" bs=1M 2>/dev/null || fail 'the image could not be written'
  sync
  blockdev --rereadpt "$DISK0" 2>/dev/null
  told disk ok
}

# As Setup and the first logon would: the computer's name, the kit's files and logs, the data disk's letter.
personalize() {
  sleep 1
  VOLUME=$(basename "$DISK0")$TARGET
  mount_ntfs "$VOLUME" /windows rw || fail "the Windows volume $VOLUME can not be mounted"
  config=/windows/Windows/System32/config
  cp "$config/SYSTEM" "$HIVE"
  [ -n "$COMPUTER" ] || fail 'the computer gets no name'
  printf 'ComputerName\nstring:%s\n' "$COMPUTER" | reg_write 'ControlSet001\Control\ComputerName\ComputerName'
  controller_starts
  reg_commit || fail 'the SYSTEM hive could not be written'
  cat "$HIVE" >"$config/SYSTEM"
  mkdir -p /windows/h2k-kit
  cp /run/config/h2k-kit/* /windows/h2k-kit/
  echo 'a stand-in installed this; it is not Windows' >/windows/h2k-kit/setup.log
  told addresses ok
  volume_closed
}

# Setup lets the driver of the controller that it installs on start at boot: on AHCI storahci loses its StartOverride.
controller_starts() {
  ls /sys/bus/pci/drivers/ahci 2>/dev/null | grep -q : || return 0
  ! reg_subkeys 'ControlSet001\Services\storahci' | grep -qi StartOverride ||
    reg_delete 'ControlSet001\Services\storahci\StartOverride'
}
