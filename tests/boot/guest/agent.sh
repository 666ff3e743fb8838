# A stand-in for the QEMU guest agent, on COM2: the questions that the Windows kit asks (tests/windows/agent.py), answered
# from the disk and from what this Linux sees. It says in guest-info and guest-get-osinfo that it is a stand-in.

# Answers as long as the guest runs; a machine without COM2 has nobody to ask.
agent_listens() {
  stty -F /dev/ttyS1 115200 raw -echo 2>/dev/null || return 0
  mount_ntfs "$VOLUME" /windows ro
  mkdir -p /run/agent
  (agent </dev/ttyS1 >/dev/ttyS1 2>/dev/null) &
}

agent() {
  number=0
  while IFS= read -r line; do
    case $(asked execute) in
      guest-sync-delimited) printf '\377{"return": %s}\n' "$(asked_number id)" ;;
      guest-ping) answer '{}' ;;
      guest-info) answer "{\"version\": \"$STAND_IN\", \"supported_commands\": []}" ;;
      guest-get-osinfo) answer "{\"id\": \"h2k-boot-lab\", \"pretty-name\": \"$STAND_IN\"}" ;;
      guest-network-get-interfaces) answer '[]' ;;
      guest-get-disks) answer "[$(agent_disks)]" ;;
      guest-get-fsinfo) answer '[{"name": "C:", "mountpoint": "C:\\", "type": "NTFS", "disk": []}]' ;;
      guest-exec) agent_exec ;;
      guest-exec-status) agent_exec_status ;;
      guest-file-open) agent_open ;;
      guest-file-read) agent_read ;;
      guest-file-seek) answer '{"position": 0, "eof": false}' ;;
      guest-file-close) answer '{}' ;;
      *) refuse 'CommandNotFound' 'the stand-in does not know this command' ;;
    esac
  done
}

answer() {
  printf '{"return": %s}\n' "$1"
}

refuse() {
  printf '{"error": {"class": "%s", "desc": "%s"}}\n' "$1" "$2"
}

# asked NAME: a text of the line's JSON, its backslashes as one; asked_number NAME: a number.
asked() {
  printf '%s\n' "$line" | sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" | sed 's/\\\\/\\/g'
}

asked_number() {
  printf '%s\n' "$line" | sed -n "s/.*\"$1\": *\\([0-9]*\\).*/\\1/p"
}

agent_disks() {
  first=yes
  count=0
  for entry in /sys/block/*; do
    case ${entry##*/} in loop* | ram* | sr* | fd*) continue ;; esac
    [ "$first" = yes ] || printf ', '
    first=no
    printf '{"name": "\\\\\\\\.\\\\PhysicalDrive%s", "partition": false}' "$count"
    count=$((count + 1))
  done
}

# Only `reg query …\Enum\PCI` is answered, as reg.exe prints it; no Windows program runs here.
agent_exec() {
  number=$((number + 1))
  case $line in
    *'Enum\\PCI'*) agent_bindings >"/run/agent/$number" && echo 0 >"/run/agent/$number.status" ;;
    *) echo "$NO_PROGRAM" >"/run/agent/$number" && echo 1 >"/run/agent/$number.status" ;;
  esac
  answer "{\"pid\": $number}"
}

agent_exec_status() {
  pid=$(asked_number pid)
  answer "{\"exited\": true, \"exitcode\": $(cat "/run/agent/$pid.status"), \"out-data\": \"$(base64 "/run/agent/$pid" | tr -d '\n')\"}"
}

agent_bindings() {
  place="$CONTROL_SET\\Enum\\PCI"
  reg_subkeys "$place" | while IFS= read -r device; do
    reg_subkeys "$place\\$device" | while IFS= read -r instance; do
      service=$(reg_get "$place\\$device\\$instance" Service) || continue
      printf 'HKEY_LOCAL_MACHINE\\SYSTEM\\CurrentControlSet\\Enum\\PCI\\%s\\%s\r\n' "$device" "$instance"
      printf '    Service    REG_SZ    %s\r\n\r\n' "$service"
    done
  done
}

agent_open() {
  path=/windows/$(asked path | sed 's/^[A-Za-z]:\\//; s/\\/\//g')
  if [ ! -f "$path" ]; then
    refuse GenericError 'the file is not there'
    return
  fi
  number=$((number + 1))
  printf '%s' "$path" >"/run/agent/$number.path"
  answer "$number"
}

agent_read() {
  head -c "$(asked_number count)" "$(cat "/run/agent/$(asked_number handle).path")" >/run/agent/read
  answer "{\"count\": $(wc -c </run/agent/read), \"buf-b64\": \"$(base64 /run/agent/read | tr -d '\n')\", \"eof\": true}"
}
