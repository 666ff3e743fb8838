# From a PCI device that is really there to the driver that the registry gives it, and the traces of Plug and Play.

SCSI_ADAPTER='{4D36E97B-E325-11CE-BFC1-08002BE10318}'
HDC='{4D36E96A-E325-11CE-BFC1-08002BE10318}'

# pci_number ADDRESS ATTRIBUTE DIGITS: a number from sysfs, in upper-case hexadecimal digits.
pci_number() {
  printf "%0$3X" "$(cat "/sys/bus/pci/devices/$1/$2")"
}

# The ids that Windows makes for a PCI function, best first, without the leading PCI\.
device_ids() {
  vendor=VEN_$(pci_number "$1" vendor 4)
  base=$vendor\&DEV_$(pci_number "$1" device 4)
  subsystem=SUBSYS_$(pci_number "$1" subsystem_device 4)$(pci_number "$1" subsystem_vendor 4)
  revision=REV_$(pci_number "$1" revision 2)
  class=CC_$(pci_number "$1" class 6)
  short=${class%??}
  printf '%s\n' "$base&$subsystem&$revision" "$base&$subsystem" "$base&$class" "$base&$short" "$base&$revision" "$base" \
    "$vendor&$class" "$vendor&$short" "$vendor" "$class" "$short"
}

# The function that a block device hangs on.
pci_address() {
  readlink -f "/sys/class/block/$1" | tr / '\n' | grep -E '^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$' | tail -n 1
}

# Matches a device to a service; sets M_ID, M_SERVICE, M_CLASS, and M_INF where one is known. Fails when no id of it is known.
match_device() {
  prefix=
  if [ "$MODERN" = no ]; then
    [ "$(reg_get "$CONTROL_SET\\Control\\PnP" DisableCDDB)" != 1 ] || return 1
    prefix=PCI#
  fi
  for M_ID in $(device_ids "$1"); do
    grep -qixF "$prefix$M_ID" /run/known-ids || continue
    if [ "$MODERN" = yes ]; then from_driver_database; else from_critical_devices; fi
    [ -z "$M_SERVICE" ] || return 0
  done
  return 1
}

from_critical_devices() {
  reg_values "$CONTROL_SET\\Control\\CriticalDeviceDatabase\\PCI#$M_ID" >/run/match
  M_INF=
  M_SERVICE=$(typed_text Service </run/match)
  M_CLASS=$(typed_text ClassGUID </run/match | tr 'a-f' 'A-F')
}

# Of the packages that list this id, the one with the newest driver date and version.
from_driver_database() {
  M_SERVICE=
  best=
  reg_values "DriverDatabase\\DeviceIds\\PCI\\$M_ID" | sed 's/^"\(.*\)"=.*/\1/' | grep -v '^@\?$' >/run/infs
  while read -r inf; do
    active=$(reg_get "DriverDatabase\\DriverInfFiles\\$inf" Active) || continue
    package="DriverDatabase\\DriverPackages\\$active"
    configuration=$(reg_get "$package\\Descriptors\\PCI\\$M_ID" Configuration) || continue
    service=$(reg_get "$package\\Configurations\\$configuration" Service) || continue
    version=$(reg_values "$package" | typed_value Version | sed 's/.*://; s/,//g')
    age=$(bytes "$version" 31 30 29 28 27 26 25 24 39 38 37 36 35 34 33 32)
    if [ -z "$best" ] || [ "$(printf '%s\n' "$best" "$age" | sort | tail -n 1)" != "$best" ]; then
      best=$age
      M_SERVICE=$service
      M_INF=$inf
      M_CLASS=$(bytes "$version" 11 10 9 8 - 13 12 - 15 14 - 16 17 - 18 19 20 21 22 23 | tr 'a-f' 'A-F')
      M_CLASS="{$M_CLASS}"
    fi
  done </run/infs
}

# bytes HEX AT…: the bytes at these places, in this order.
bytes() {
  printf '%s\n' "$*" | awk '{ for (i = 2; i <= NF; i++) printf "%s", $i == "-" ? "-" : substr($1, 2 * $i + 1, 2) }'
}

# The kernel starts the boot disk's controller with the driver that the registry gives it, or stops.
boot_disk_gets_its_driver() {
  BOOT_ADDRESS=$(pci_address "$DISK")
  BOOT_ID=$(device_ids "$BOOT_ADDRESS" | head -n 1)
  match_device "$BOOT_ADDRESS" || stop 0x7B "no boot driver is known for PCI\\$BOOT_ID"
  BOOT_MATCH=$M_ID BOOT_SERVICE=$M_SERVICE BOOT_CLASS=$M_CLASS
  loads_at_boot "$BOOT_SERVICE" || stop 0x7B "PCI\\$BOOT_MATCH: $WHY"
  case $(pci_number "$BOOT_ADDRESS" class 6) in
    0101* | 0106*) [ "$BOOT_CLASS" != "$HDC" ] || right_class=yes ;;
  esac
  [ "$BOOT_CLASS" != "$SCSI_ADAPTER" ] || right_class=yes
  [ "${right_class:-no}" = yes ] || stop 0x7B "PCI\\$BOOT_MATCH: class ${BOOT_CLASS:-missing} is not that of a storage controller"
  case $BOOT_SERVICE in
    # Each channel of an IDE controller is a device of its own, which atapi drives.
    [Ii][Nn][Tt][Ee][Ll][Ii][Dd][Ee] | [Pp][Cc][Ii][Ii][Dd][Ee]) loads_at_boot atapi || stop 0x7B "IDE channel: $WHY" ;;
  esac
}

# Select after a boot that reached its disk: this set is current, and good.
kernel_notes_the_boot() {
  number=$((1${CONTROL_SET#ControlSet} - 1000))
  failed=$(typed_dword Failed </run/select) || failed=0
  reg_write Select <<EOF
Current
dword:$number
Default
dword:$number
Failed
dword:$failed
LastKnownGood
dword:$number
EOF
  reg_commit
}

# Binds every VirtIO function whose ids lead to a driver that is there: its Enum instance, and the service's
# StartOverride away, as Plug and Play does when the hardware is present.
plug_and_play() {
  for device in /sys/bus/pci/devices/*; do
    address=${device##*/}
    [ "$(cat "$device/vendor")" = 0x1af4 ] || [ "$address" = "$BOOT_ADDRESS" ] || continue
    instance=$(device_ids "$address" | head -n 1)
    if match_device "$address" && read_service "$M_SERVICE" && [ "$S_START" != 4 ] && file_loads "$M_SERVICE"; then
      bind_device "$address" "$instance"
    else
      UNBOUND="${UNBOUND:+$UNBOUND, }PCI\\$instance"
    fi
  done
  say "{\"bound\":\"$(json "$BOUND")\",\"unbound\":\"$(json "$UNBOUND")\"}"
}

BOUND= UNBOUND=

# bind_device ADDRESS ID: its keys in the registry. Where the first-boot runner is staged, its pnputil would have replaced
# a placeholder package by the real one, which Windows names oem0.inf and so on: InfPath says so, and no more of it is done.
bind_device() {
  slot=${1#*:*:} # device.function; Windows' instance ids end with device * 8 + function
  place=$(printf '%02X' $((0x${slot%.*} * 8 + ${slot#*.})))
  key="$CONTROL_SET\\Enum\\PCI\\$2\\3&11583659&0&$place"
  if [ "$(reg_get "$key" Service)" != "$M_SERVICE" ]; then
    number=$(next_driver_number "$CONTROL_SET\\Control\\Class\\$M_CLASS")
    case $STAGED$2 in yesVEN_1AF4*) M_INF=oem0.inf ;; esac
    reg_write "$CONTROL_SET\\Control\\Class\\$M_CLASS\\$number" <<EOF
${M_INF:+InfPath
string:$M_INF
}DriverDesc
string:$M_SERVICE
MatchingDeviceId
string:pci\\$(echo "$M_ID" | tr 'A-Z' 'a-z')
EOF
    reg_write "$key" <<EOF
Service
string:$M_SERVICE
ClassGUID
string:$(echo "$M_CLASS" | tr 'A-F' 'a-f')
Driver
string:$(echo "$M_CLASS" | tr 'A-F' 'a-f')\\$number
ConfigFlags
dword:0
EOF
  fi
  [ "$S_OVERRIDE" = none ] || reg_delete "$CONTROL_SET\\Services\\$M_SERVICE\\StartOverride"
  rm "/run/services/$(printf '%s' "$M_SERVICE" | tr 'A-Z' 'a-z')" # read again by who asks next
  reg_commit || return
  BOUND="${BOUND:+$BOUND, }PCI\\$2 by $M_SERVICE"
}

next_driver_number() {
  last=$(reg_subkeys "$1" | grep -E '^[0-9]{4}$' | sort | tail -n 1)
  [ -z "$last" ] || last=$((1$last - 10000))
  printf '%04d' $((${last:--1} + 1))
}
