# The registry through hivexsh. HIVE is the file; paths have no leading backslash. hivexsh reads the whole hive at each
# start and ends at the first key that is not there, so what is known to be there is read in one go.

HIVE=/run/SYSTEM

# One value, decoded (a MULTI_SZ one line a string); fails when the key or the value is missing.
reg_get() {
  printf 'cd \\%s\nlsval %s\n' "$1" "$2" | hivexsh "$HIVE" 2>/dev/null
}

# All values of a key as hivexsh prints them: "Name"=dword:00000003, "Name"=str(2):"…", "Name"=hex(3):01,ff.
reg_values() {
  printf 'cd \\%s\nlsval\n' "$1" | hivexsh "$HIVE" 2>/dev/null
}

reg_subkeys() {
  printf 'cd \\%s\nls\n' "$1" | hivexsh "$HIVE" 2>/dev/null
}

# reg_dump KEY…: all these keys, which must be there: for each a line with its path, which a bare `cd` prints and which
# begins with a backslash, its values as above, and its subkeys' names.
reg_dump() {
  for key in "$@"; do printf 'cd \\%s\ncd\nlsval\nls\n' "$key"; done | hivexsh "$HIVE" 2>/dev/null
}

# typed_value NAME: of reg_values' lines on standard input the one of this name, after the "=".
typed_value() {
  awk -v want="$1" '
    { at = index($0, "\"=") }
    tolower(substr($0, 2, at - 2)) == tolower(want) { print substr($0, at + 2); found = 1 }
    END { exit !found }'
}

# typed_dword NAME: the DWORD of this name as a decimal number; fails for another type.
typed_dword() {
  value=$(typed_value "$1") || return 1
  case $value in dword:*) echo $((0x${value#dword:})) ;; *) return 1 ;; esac
}

# typed_text NAME: the SZ or EXPAND_SZ of this name; fails for another type.
typed_text() {
  value=$(typed_value "$1") || return 1
  case $value in
    \"*\") ;;
    str\(*\):*) value=${value#*:} ;;
    *) return 1 ;;
  esac
  value=${value#\"}
  printf '%s\n' "${value%\"}" | sed 's/\\\(.\)/\1/g'
}

# Changes wait in /run/edit until reg_commit; hivexsh takes lines of up to 1000 characters. reg_write PATH: replaces all values of a key, which is made where it or
# keys above it are missing, by name and type:value lines in turn on standard input.
reg_write() {
  cat >/run/values
  printf '%s\n' "$1" | tr '\\' '\n' >/run/path
  depth=$({ printf 'cd \\ \n' && sed 's/.*/cd &\ncd/' /run/path; } | hivexsh "$HIVE" 2>/dev/null | wc -l)
  {
    printf 'cd \\ \n'
    awk -v depth="$depth" 'NR > depth { print "add " $0 } { print "cd " $0 }' /run/path
    printf 'setval %d\n' $(($(wc -l </run/values) / 2))
    cat /run/values
  } >>/run/edit
}

reg_delete() {
  printf 'cd \\%s\ndel\n' "$1" >>/run/edit
}

reg_commit() {
  [ -s /run/edit ] || return 0
  echo commit >>/run/edit
  error=$(hivexsh -w "$HIVE" 2>&1 </run/edit) && failed=no || failed=yes
  : >/run/edit
  [ "$failed" = no ] || say "{\"note\":\"a change of the registry failed: $(json "$error" | tr '\n' ' ')\"}"
  [ "$failed" = no ]
}

# reg_disable PATH: Start=4 and DeleteFlag=1, and the service's other values as they are.
reg_disable() {
  {
    reg_values "$1" | awk '
      function unescape(text) { gsub(/\\\\/, "\001", text); gsub(/\\"/, "\"", text); gsub("\001", "\\", text); return text }
      {
        at = index($0, "\"=")
        name = substr($0, 2, at - 2); value = substr($0, at + 2)
        if (tolower(name) == "start" || tolower(name) == "deleteflag") next
        if (value ~ /^dword:/) value = "dword:0x" substr(value, 7)
        else if (value ~ /^"/) value = "string:" unescape(substr(value, 2, length(value) - 2))
        else if (value ~ /^str\(2\):/) value = "expandstring:" unescape(substr(value, 9, length(value) - 9))
        else if (match(value, /^hex\([0-9]+\):/)) value = "hex:" substr(value, 5, RLENGTH - 6) ":" substr(value, RLENGTH + 1)
        print unescape(name); print value
      }'
    printf '%s\n' Start dword:4 DeleteFlag dword:1
  } | reg_write "$1"
}
