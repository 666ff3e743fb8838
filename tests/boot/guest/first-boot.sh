# The first-boot steps as far as a stand-in can do them, with the signals of the real runner on COM1.

SERVICE=h2k-firstboot

# The steps run when the service is there and enabled, and end by marking it for deletion as `sc delete` would: the
# service manager takes such a key away at the next start.
first_boot() {
  if read_service "$SERVICE" && [ "$(reg_get "$CONTROL_SET\\Services\\$SERVICE" DeleteFlag)" = 1 ]; then
    reg_delete "$CONTROL_SET\\Services\\$SERVICE"
    reg_commit
  fi
  if ! read_service "$SERVICE" || [ "$S_START" = 4 ]; then
    signal start ok 'no first-boot service'
    [ "$WRITABLE" = no ] || save_registry
    signal 'done' ok
    return
  fi
  if [ "$WRITABLE" = no ]; then
    signal start failed 'the Windows volume can not be written'
    return
  fi
  step start ok
  if knob no-pnp; then
    step drivers skipped 'Plug and Play is switched off by the knob no-pnp'
  elif [ -n "$UNBOUND" ]; then
    step drivers ok "bound: ${BOUND:-nothing}; no driver: $UNBOUND"
  else
    step drivers ok "bound: ${BOUND:-nothing}"
  fi
  step addresses skipped 'the stand-in has no network'
  step disks ok "$(ls /sys/block | grep -cE '^([shv]d|nvme)') disks"
  step tools skipped 'the stand-in runs no Windows program'
  step agent skipped 'the stand-in runs no Windows program'
  reg_disable "$CONTROL_SET\\Services\\$SERVICE"
  reg_commit
  save_registry
  step cleanup ok
  step 'done' ok
}

# A step's marker on the disk first, then its signal.
step() {
  mkdir -p /windows/ProgramData/h2k/done
  echo "$2" >"/windows/ProgramData/h2k/done/$1"
  sync
  signal "$@"
}

save_registry() {
  cat "$HIVE" >"$CONFIG/SYSTEM" || say '{"note":"the SYSTEM hive could not be written"}'
  sync
}
