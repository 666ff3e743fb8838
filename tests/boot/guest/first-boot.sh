# The first-boot steps by the rules of the real runner, h2k/windows/first_boot_scripts/runner.cmd, as far as a stand-in can do
# them: each step once, one signal for each, what needs the final hardware left to the next boot, the service deleted
# at the end. No Windows program runs here, so what only one could do is skipped, and says so.

SERVICE=h2k-firstboot
PLACE="/windows/Program Files/h2k"
VIRT_V2V='/windows/Program Files/Guestfs/Firstboot'
NO_PROGRAM='the stand-in runs no Windows program'

# Whether the runner is to run: its service is there, enabled, and not marked for deletion. A mark that is left from the
# boot before makes the service manager take the key away.
first_boot_staged() {
  read_service "$SERVICE" || return 1
  if [ "$(reg_get "$CONTROL_SET\\Services\\$SERVICE" DeleteFlag)" = 1 ]; then
    reg_delete "$CONTROL_SET\\Services\\$SERVICE"
    reg_commit
    return 1
  fi
  [ "$S_START" != 4 ]
}

# virt-v2v's own first boot, by the rules of both its runners: a script each boot, moved away and followed by a restart;
# from 2.12 on the next one without it after `exit /b 250`, and a script that says 249 stays, to be run again. Scripts of
# h2k's in their place (rem h2k: bounded) end well. The service goes with the last one. Ours waits.
virt_v2v_first_boot() {
  if ! read_service firstboot || [ "$S_START" = 4 ] || [ "$WRITABLE" = no ] || [ -e "$VIRT_V2V/complete" ]; then return; fi
  mkdir -p "$VIRT_V2V/scripts-done"
  for script in "$VIRT_V2V"/scripts/*.bat; do
    [ -e "$script" ] || break
    [ "$STAGED" = no ] || signal start skipped 'waits for the first-boot scripts of virt-v2v'
    if grep -q 'exit /b 249' "$script" && ! grep -q 'rem h2k: bounded' "$script"; then
      say "{\"note\":\"virt-v2v: ${script##*/} will be tried again\"}"
    else
      mv "$script" "$VIRT_V2V/scripts-done/"
    fi
    ! grep -q 'exit /b 250' "$VIRT_V2V/scripts-done/${script##*/}" 2>/dev/null || continue
    save_hive SYSTEM
    volume_closed
    reboot -f
    hang
  done
  touch "$VIRT_V2V/complete"
  reg_delete "$CONTROL_SET\\Services\\firstboot"
  reg_commit
}

first_boot() {
  virt_v2v_first_boot
  if [ "$STAGED" = no ]; then
    [ "$WRITABLE" = no ] || save_hive SYSTEM
    signal start ok 'no first-boot service'
    signal 'done' ok
    return
  fi
  if [ "$WRITABLE" = no ]; then
    signal start failed 'the Windows volume can not be written'
    return
  fi
  [ ! -e "$PLACE/done/done" ] || rm -r "$PLACE/done"
  mkdir -p "$PLACE/done"
  signal start ok
  WAITING=
  run_drivers
  step addresses skipped 'the stand-in has no network'
  step disks ok "$(ls /sys/block | grep -cE '^([shv]d|nvme)') disks are there; the SAN policy stays"
  step tools skipped "$NO_PROGRAM"
  step agent skipped "$NO_PROGRAM"
  if on_final_bus; then step cleanup skipped 'the placeholder packages stay'; else waits cleanup 'the final bus'; fi
  if [ -n "$WAITING" ]; then
    save_hive SYSTEM
    signal 'done' ok "the next boot goes on with:$WAITING"
    return
  fi
  reg_disable "$CONTROL_SET\\Services\\$SERVICE" # as `sc delete` leaves it until the next start
  reg_commit
  save_hive SYSTEM
  note_first_boot
  step 'done' ok complete
}

run_drivers() {
  if knob no-pnp; then
    step drivers skipped 'Plug and Play is switched off by the knob no-pnp'
  else
    step drivers ok "bound: ${BOUND:-nothing}${UNBOUND:+; no driver: $UNBOUND}"
  fi
}

# step NAME STATE DETAIL: a step's marker on the disk first, then its signal; at a later boot it is not done again.
step() {
  if [ -e "$PLACE/done/$1" ]; then
    signal "$1" skipped 'done at an earlier boot'
    return
  fi
  echo "$2" >"$PLACE/done/$1"
  sync
  signal "$@"
}

waits() {
  WAITING="$WAITING $1"
  signal "$1" skipped "waits for the next boot: $2"
}

# Whether the boot disk hangs on the bus that settings.txt calls final.
on_final_bus() {
  case $(tr -d '\r' <"$PLACE/settings.txt" 2>/dev/null | sed -n 's/^bus //p') in
    virtio) wanted=1AF4 device='10(01|42)' ;;
    virtio-scsi) wanted=1AF4 device='10(04|48)' ;;
    *) return 0 ;;
  esac
  echo "$BOOT_ID" | grep -qE "^VEN_$wanted&DEV_$device&"
}

# SOFTWARE\h2k, value FirstBoot: how h2k knows afterwards that the first boot is over.
note_first_boot() (
  HIVE=/run/SOFTWARE
  cp "$CONFIG/SOFTWARE" "$HIVE" || return
  printf 'FirstBoot\nstring:done\n' | reg_write h2k
  reg_commit
  save_hive SOFTWARE
)

save_hive() {
  cat "/run/$1" >"$CONFIG/$1" || say "{\"note\":\"the hive $1 could not be written\"}"
  sync
}
