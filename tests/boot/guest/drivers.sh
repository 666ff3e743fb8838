# What the loader reads: the SYSTEM hive, the control set, the kernel, and which services it can load.

CONFIG=/windows/Windows/System32/config

# A hive whose sequence numbers differ is dirty. The real loader replays its logs; the lab can't, so it says so, and
# goes on with what the hive holds. Without a log the real loader gives up, and so does the lab.
loader_reads_registry() {
  [ -s "$CONFIG/SYSTEM" ] || stop 0xc000014c '\Windows\System32\config\SYSTEM is empty'
  cp "$CONFIG/SYSTEM" "$HIVE" || stop 0xc000014c '\Windows\System32\config\SYSTEM can not be read'
  [ "$(head -c 4 "$HIVE")" = regf ] || stop 0xc000014c '\Windows\System32\config\SYSTEM is not a registry hive'
  # As ReactOS' HvpInitializeMemoryHive: the file must hold all that the header's length promises behind its 4096 bytes.
  length=$(od -An -tu1 -j 40 -N 4 "$HIVE" | awk '{ print $1 + 256 * ($2 + 256 * ($3 + 256 * $4)) }')
  [ "$(stat -c %s "$HIVE")" -ge $((length + 4096)) ] || stop 0xc000014c '\Windows\System32\config\SYSTEM is shorter than it says'
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
  reg_subkeys "$CONTROL_SET\\Services" >/run/service-names ||
    stop 0xc000014c "SYSTEM: $CONTROL_SET, which Select names, has no Services"
  # Windows 8 and later match devices through DriverDatabase, and know StartOverride.
  MODERN=yes
  reg_subkeys 'DriverDatabase\DeviceIds\PCI' >/run/known-ids || MODERN=no
  [ "$MODERN" = yes ] || reg_subkeys "$CONTROL_SET\\Control\\CriticalDeviceDatabase" >/run/known-ids
  mkdir /run/services
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

# read_services NAME…: reads those that have a key into /run/services/NAME: Type, Start, and whether a StartOverride is
# there and keeps the loader away (any of its values that is not 0; Windows 8 and later look), then the ImagePath.
read_services() {
  printf '%s\n' "$@" >/run/wanted
  keys=$(grep -ixFf /run/wanted /run/service-names | sed "s/.*/$CONTROL_SET\\\\Services\\\\&/")
  split_lines reg_dump "$keys" >/run/dump
  keys=$(awk '/^\\/ { key = substr($0, 2) } tolower($0) == "startoverride" { print key "\\StartOverride" }' /run/dump)
  [ -z "$keys" ] || split_lines reg_dump "$keys" >>/run/dump
  awk -v modern="$MODERN" '
    function number(text,  i, n) {
      for (i = 7; i <= 14; i++) n = 16 * n + index("0123456789abcdef", substr(text, i, 1)) - 1
      return n
    }
    /^\\/ { depth = split(tolower($0), part, "\\"); name = part[4]; seen[name] = 1; if (depth == 5) override[name] = "harmless"; next }
    !/^"/ { next }
    { at = index($0, "\"="); value = tolower(substr($0, 2, at - 2)); data = substr($0, at + 2) }
    depth == 5 && data ~ /^dword:/ && data != "dword:00000000" && modern == "yes" { harmful[name] = 1 }
    depth == 4 && value == "type" && data ~ /^dword:/ { type[name] = number(data) }
    depth == 4 && value == "start" && data ~ /^dword:/ { start[name] = number(data) }
    depth == 4 && value == "imagepath" && data ~ /^("|str)/ {
      sub(/^[^"]*"/, "", data); sub(/"$/, "", data); gsub(/\\\\/, "/", data); image[name] = data
    }
    END {
      for (name in seen) {
        file = "/run/services/" name
        print (name in type ? type[name] : "-"), (name in start ? start[name] : "-"), \
          (name in harmful ? "harmful" : name in override ? "harmless" : "none") > file
        print image[name] > file
        close(file)
      }
    }' /run/dump
}

# split_lines COMMAND LINES: the command with each line as an argument.
split_lines() {
  local command=$1 old=$IFS
  IFS='
'
  set -f
  set -- $2
  set +f
  IFS=$old
  "$command" "$@"
}

# read_service NAME: S_TYPE, S_START ("-" when missing), S_OVERRIDE (none, harmless, harmful), S_IMAGE ('/' between its
# components). Fails when the service has no key.
read_service() {
  local place
  place=/run/services/$(printf '%s' "$1" | tr 'A-Z' 'a-z')
  [ -e "$place" ] || read_services "$1"
  [ -e "$place" ] || return 1
  { read -r S_TYPE S_START S_OVERRIDE && IFS= read -r S_IMAGE; } <"$place"
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
  case $S_TYPE in 1 | 2) ;; *) WHY="$1: Type is $S_TYPE, no driver"; return 1 ;; esac
  [ "$S_START" = 0 ] || { WHY="$1: Start is $S_START, not boot-start"; return 1; }
  [ "$S_OVERRIDE" != harmful ] || { WHY="$1: StartOverride keeps it from loading"; return 1; }
  file_loads "$1"
}

# The drivers without which no Windows reaches its disk. Ntfs is loaded by the loader at any Start but 4.
boot_stack_loads() {
  stack='pci ACPI disk partmgr volmgr mountmgr volsnap fltmgr'
  read_services $stack volume Ntfs
  for driver in $stack; do
    loads_at_boot "$driver" || stop 0x7B "boot stack: $WHY"
  done
  if [ "$MODERN" = yes ] && read_service volume; then
    loads_at_boot volume || stop 0x7B "boot stack: $WHY"
  fi
  read_service Ntfs || stop 0x7B "boot stack: Ntfs: the service is missing in $CONTROL_SET"
  case $S_START in 0 | 1 | 3) ;; *) stop 0x7B "boot stack: Ntfs: Start is $S_START" ;; esac
  file_loads Ntfs || stop 0x7B "boot stack: $WHY"
}

# A class filter that can't be loaded keeps every device of its class from starting. The classes on the boot disk's
# way: system devices, the controller's own class, disks, volumes.
class_filters_load() {
  printf '%s\n' '{4D36E97D-E325-11CE-BFC1-08002BE10318}' "$BOOT_CLASS" '{4D36E967-E325-11CE-BFC1-08002BE10318}' \
    '{71A27CDD-812A-11D0-BEC7-08002BE2092F}' >/run/wanted
  keys=$(reg_subkeys "$CONTROL_SET\\Control\\Class" | grep -ixFf /run/wanted | sed "s/.*/$CONTROL_SET\\\\Control\\\\Class\\\\&/")
  [ -n "$keys" ] || return 0
  # A MULTI_SZ comes as UTF-16 in hexadecimal; service names are ASCII.
  split_lines reg_dump "$keys" | awk '
    /^\\/ { n = split($0, part, "\\"); class = part[n] }
    tolower($0) ~ /^"(upper|lower)filters"=hex\(7\):/ {
      list = substr($0, 2, 12)
      count = split(substr($0, index($0, ":") + 1), byte, ",")
      name = ""
      for (i = 1; i < count; i += 2) {
        code = 16 * (index("0123456789abcdef", substr(byte[i], 1, 1)) - 1) + index("0123456789abcdef", substr(byte[i], 2, 1)) - 1
        if (code) name = name sprintf("%c", code)
        else if (name != "") { print name "\t" list " of class " class; name = "" }
      }
    }' >/run/filters
  [ -s /run/filters ] || return 0
  split_lines read_services "$(cut -f 1 /run/filters)"
  while IFS='	' read -r filter place; do
    read_service "$filter" || stop 0x7B "$place: $filter: the service is missing"
    [ "$S_START" != 4 ] || stop 0x7B "$place: $filter: the service is disabled"
    file_loads "$filter" || stop 0x7B "$place: $WHY"
  done </run/filters
}
