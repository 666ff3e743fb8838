# How the lab speaks: lines on COM1 for programs, screens for people, pvpanic for the host.

STAND_IN="h2k boot lab: a stand-in for Windows' boot, not Windows"

# COM1 is descriptor 3 from here on; 9600 baud, the default, would make each line cost a second.
open_com1() {
  if stty -F /dev/ttyS0 115200 2>/dev/null; then exec 3>/dev/ttyS0; else exec 3>/dev/null; fi
}

# A line of evidence: say JSON
say() {
  printf '\nh2k-lab %s\n' "$1" >&3
}

# A line of the first-boot protocol: signal STEP STATE [DETAIL]
signal() {
  printf '\nh2k-boot {"v":1,"step":"%s","state":"%s"%s}\n' "$1" "$2" "${3:+,\"detail\":\"$(json "$3")\"}" >&3
}

# Text for the inside of a JSON string.
json() {
  printf '%s' "$1" | sed 's/[\\"]/\\&/g'
}

# screen COLOURS TEXT…: the whole screen in these colours, one line a word.
screen() {
  {
    printf '\033[0m\033[%sm\033[2J\033[H\033[?25l' "$1"
    shift
    printf '  %s\n' '' "$@"
  } >/dev/tty0
}

# Ends this boot as Windows would: stop CODE REASON. 0x… below 0x1000 is the kernel's stop code, a longer one the
# loader's status; anything else is what the boot code in front of them prints.
stop() {
  case $1 in
    0x7B) screen '97;44' ':(' '' 'INACCESSIBLE_BOOT_DEVICE 0x7B' '' "$2" '' "$STAND_IN" ;;
    0xc*) screen '97;40' 'Windows failed to start.' '' "Status: $1" '' "$2" '' "$STAND_IN" ;;
    *) screen '37;40' "$1" 'Press Ctrl+Alt+Del to restart' '' "$2" '' "$STAND_IN" ;;
  esac
  say "{\"stop\":\"$1\",\"why\":\"$(json "$2")\"}"
  [ "$1" != 0x7B ] || panicked
  hang
}

# Tells the host through pvpanic, where there is one: ISA port 0x505 (ACPI QEMU0001), or the first byte of the PCI
# device 1B36:0011. QEMU's docs/specs/pvpanic: bit 0 is "the guest has panicked".
panicked() {
  if [ -e /sys/bus/acpi/devices/QEMU0001:00 ]; then
    printf '\001' | dd of=/dev/port bs=1 seek=1285 count=1 2>/dev/null
  fi
  for device in /sys/bus/pci/devices/*; do
    [ "$(cat "$device/vendor" "$device/device" | tr -d '\n')" = 0x1b360x0011 ] || continue
    echo 1 >"$device/enable"
    devmem "$(head -n 1 "$device/resource" | cut -d ' ' -f 1)" 8 1
  done
}

desktop() {
  screen '30;46' 'h2k boot lab: booted to the desktop stand-in' '' \
    "control set $CONTROL_SET" "boot disk on PCI\\$BOOT_ID by $BOOT_SERVICE" "$BOUND" '' \
    "$STAND_IN" 'It shuts down on the ACPI power button.'
}

# The ACPI power button as Linux shows it: one 24-byte event on the input device of that name. Who listens before the
# first signal misses no press.
listen_for_power_button() {
  for name in /sys/class/input/event*/device/name; do
    [ "$(cat "$name")" = 'Power Button' ] || continue
    event=${name#/sys/class/input/}
    (dd "if=/dev/input/${event%%/*}" bs=24 count=1 >/run/power 2>/dev/null) &
  done
}

wait_for_power_button() {
  until [ -s /run/power ]; do sleep 0.2; done
}
