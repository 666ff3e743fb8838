#!/bin/sh
# A pipeline that runs virt-v2v itself and h2k after it: convert.sh OUTPUT-DIRECTORY VIRT-V2V-INPUT-ARGUMENTS…
# Ends with virt-v2v's status if that failed, else with h2k's: 0 ready, 3 refused, 5 not verified.
set -eu

out=$1
shift
name=${GUEST_NAME:?set GUEST_NAME to what the guest is to be called}

virt-v2v "$@" -o local -os "$out" -on "$name" || exit $?

status=0
h2k post "$out/$name.xml" --json >"$out/$name.h2k.json" || status=$?
case $status in
0) echo "$name: ready; first boot with $out/$name.h2k/bootstrap.xml" ;;
3) echo "$name: refused, see $out/$name.h2k.json" >&2 ;;
*) echo "$name: not ready ($status), see $out/$name.h2k.json" >&2 ;;
esac
exit "$status"
