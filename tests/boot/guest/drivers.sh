# What the loader reads: the SYSTEM hive, the control set, the kernel, and which services it can load.

CONFIG=/windows/Windows/System32/config

# A hive whose sequence numbers differ is dirty. The real loader replays its logs; the lab can't, so it says so, and
# goes on with what the hive holds. Without a log the real loader gives up, and so does the lab.
loader_reads_registry() {
  [ -s "$CONFIG/SYSTEM" ] || stop 0xc000014c '\Windows\System32\config\SYSTEM is empty'
  cp "$CONFIG/SYSTEM" "$HIVE" || stop 0xc000014c '\Windows\System32\config\SYSTEM can not be read'
  [ "$(head -c 4 "$HIVE")" = regf ] || stop 0xc000014c '\Windows\System32\config\SYSTEM is not a registry hive'
  HIVE_STATE=clean
  if [ "$(dd "if=$HIVE" bs=4 skip=1 count=1 2>/dev/null | hexdump -C)" != "$(dd "if=$HIVE" bs=4 skip=2 count=1 2>/dev/null | hexdump -C)" ]; then
    HIVE_STATE=dirty
    [ -s "$CONFIG/SYSTEM.LOG1" ] || [ -s "$CONFIG/SYSTEM.LOG2" ] || [ -s "$CONFIG/SYSTEM.LOG" ] ||
      stop 0xc000014c '\Windows\System32\config\SYSTEM is dirty and has no log'
  fi
  reg_values Select >/run/select || stop 0xc000014c '\Windows\System32\config\SYSTEM has no Select key'
  number=$(typed_dword Default </run/select) || stop 0xc000014c 'SYSTEM: Select has no Default'
  [ "$(fw_cfg last-known-good)" != 1 ] || number=$(typed_dword LastKnownGood </run/select)
  CONTROL_SET=$(printf 'ControlSet%03d' "$number")
  reg_exists "$CONTROL_SET\\Services" || stop 0xc000014c "SYSTEM: $CONTROL_SET, which Select names, has no Services"
  # Windows 8 and later match devices through DriverDatabase, and know StartOverride.
  MODERN=no
  ! reg_exists DriverDatabase || MODERN=yes
}

# What QEMU was told with -fw_cfg name=opt/h2k-lab/NAME,string=…
fw_cfg() {
  cat "/sys/firmware/qemu_fw_cfg/by_name/opt/h2k-lab/$1/raw" 2>/dev/null
}

loader_reads_kernel() {
  MACHINE=$(pe_machine "$CONFIG/../ntoskrnl.exe") || stop 0xc0000098 "\\Windows\\System32\\ntoskrnl.exe: $MACHINE"
}

# The machine type of a whole PE file, as a number; else fails and prints what is wrong with it.
pe_machine() {
  [ -e "$1" ] || { echo 'the file is missing'; return 1; }
  size=$(stat -c %s "$1")
  od -An -v -tu1 -N 4096 "$1" 2>/dev/null | awk -v size="$size" '
    { for (i = 1; i <= NF; i++) b[n++] = $i }
    function u16(at) { return b[at] + 256 * b[at + 1] }
    function u32(at) { return u16(at) + 65536 * u16(at + 2) }
    function bad(text) { print text; failed = 1; exit 1 }
    END {
      if (failed) exit 1
      if (size == 0) bad("the file is empty")
      if (n < 64 || b[0] != 77 || b[1] != 90) bad("the file is not a PE")
      pe = u32(60)
      if (pe + 24 > n || b[pe] != 80 || b[pe + 1] != 69 || b[pe + 2] || b[pe + 3]) bad("the file is not a PE")
      table = pe + 24 + u16(pe + 20)
      if (u16(pe + 6) == 0) bad("the file is not a PE")
      for (s = 0; s < u16(pe + 6); s++) {
        at = table + 40 * s
        if (at + 40 > n) bad("the file is truncated")
        if (u32(at + 20) + u32(at + 16) > size) bad("the file is truncated")
      }
      print u16(pe + 4)
    }'
}

# Reads a service in one go: S_TYPE, S_START, S_IMAGE, and S_OVERRIDE, which is yes when a value of StartOverride is not
# 0 (Windows 8 and later look there). Fails when it has no key. hivexsh's bare `cd` prints where it is: the service's
# own values come after the first such line, those of StartOverride after the second.
read_service() {
  S_TYPE= S_START= S_IMAGE= S_OVERRIDE=no
  depth=0
  printf 'cd \\%s\ncd\nlsval\ncd StartOverride\ncd\nlsval\n' "$CONTROL_SET\\Services\\$1" | hivexsh "$HIVE" >/run/service 2>/dev/null
  while IFS= read -r line; do
    case $depth$line in
      [01]'\'*) depth=$((depth + 1)) ;;
      1'"'[Tt][Yy][Pp][Ee]'"=dword:'*) S_TYPE=$((0x${line##*:})) ;;
      1'"'[Ss][Tt][Aa][Rr][Tt]'"=dword:'*) S_START=$((0x${line##*:})) ;;
      1'"'[Ii][Mm][Aa][Gg][Ee][Pp][Aa][Tt][Hh]'"="'* | 1'"'[Ii][Mm][Aa][Gg][Ee][Pp][Aa][Tt][Hh]'"=str'*)
        S_IMAGE=${line#*=*\"}
        S_IMAGE=${S_IMAGE%\"}
        S_IMAGE=${S_IMAGE//'\\'/\/}
        ;;
      2*'"=dword:00000000') ;;
      2*'"=dword:'*) S_OVERRIDE=$MODERN ;;
    esac
  done </run/service
  [ "$depth" != 0 ]
}

# The file of the service that read_service has read, below /windows: FILE.
find_driver_file() {
  case $S_IMAGE in
    '') FILE=/windows/Windows/System32/drivers/$1.sys ;;
    /[Ss][Yy][Ss][Tt][Ee][Mm][Rr][Oo][Oo][Tt]/*) FILE=/windows/Windows/${S_IMAGE#/*/} ;;
    %*%/*) FILE=/windows/Windows/${S_IMAGE#*/} ;; # %SystemRoot% or %windir%
    '/??/'?:* | ?:/*) FILE=/windows${S_IMAGE#*:} ;;
    *) FILE=/windows/Windows/${S_IMAGE#/} ;;
  esac
}

# Whether the file of a service can be loaded; WHY says what is wrong.
file_loads() {
  find_driver_file "$1"
  machine=$(pe_machine "$FILE") || { WHY="$1: ${FILE#/windows}: $machine"; return 1; }
  [ "$machine" = "$MACHINE" ] || { WHY="$1: ${FILE#/windows}: the file is for another machine type"; return 1; }
}

# Whether the loader loads this service at boot; WHY says why not.
loads_at_boot() {
  read_service "$1" || { WHY="$1: the service is missing in $CONTROL_SET"; return 1; }
  case $S_TYPE in 1 | 2) ;; *) WHY="$1: Type is ${S_TYPE:-missing}, no driver"; return 1 ;; esac
  [ "$S_START" = 0 ] || { WHY="$1: Start is ${S_START:-missing}, not boot-start"; return 1; }
  [ "$S_OVERRIDE" = no ] || { WHY="$1: StartOverride keeps it from loading"; return 1; }
  file_loads "$1"
}

# The drivers without which no Windows reaches its disk. Ntfs is loaded by the loader at any Start but 4.
boot_stack_loads() {
  for driver in pci ACPI disk partmgr volmgr mountmgr volsnap fltmgr; do
    loads_at_boot "$driver" || stop 0x7B "boot stack: $WHY"
  done
  if [ "$MODERN" = yes ] && read_service volume; then
    loads_at_boot volume || stop 0x7B "boot stack: $WHY"
  fi
  read_service Ntfs || stop 0x7B "boot stack: Ntfs: the service is missing in $CONTROL_SET"
  case $S_START in 0 | 1 | 3) ;; *) stop 0x7B "boot stack: Ntfs: Start is ${S_START:-missing}" ;; esac
  file_loads Ntfs || stop 0x7B "boot stack: $WHY"
}

# A class filter that can't be loaded keeps every device of its class from starting. The classes on the boot disk's
# way: system devices, the controller's own class, disks, volumes.
class_filters_load() {
  for class in '{4D36E97D-E325-11CE-BFC1-08002BE10318}' "$BOOT_CLASS" '{4D36E967-E325-11CE-BFC1-08002BE10318}' \
    '{71A27CDD-812A-11D0-BEC7-08002BE2092F}'; do
    for list in UpperFilters LowerFilters; do
      for filter in $(reg_get "$CONTROL_SET\\Control\\Class\\$class" "$list"); do
        read_service "$filter" || stop 0x7B "$list of class $class: $filter: the service is missing"
        [ "$S_START" != 4 ] || stop 0x7B "$list of class $class: $filter: the service is disabled"
        file_loads "$filter" || stop 0x7B "$list of class $class: $WHY"
      done
    done
  done
}
