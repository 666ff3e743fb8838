# The registry through hivexsh. HIVE is the file; paths have no leading backslash.

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

reg_exists() {
  printf 'cd \\%s\n' "$1" | hivexsh "$HIVE" 2>/dev/null
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

# Applies hivexsh commands from standard input to the hive.
reg_edit() {
  { cat && echo commit; } | hivexsh -w "$HIVE"
}

# reg_make PATH: makes the key, with the keys above it.
reg_make() {
  printf '%s\n' "$1" | tr '\\' '\n' >/run/path
  depth=$({ printf 'cd \\ \n' && sed 's/.*/cd &\ncd/' /run/path; } | hivexsh "$HIVE" 2>/dev/null | wc -l)
  {
    printf 'cd \\ \n'
    awk -v depth="$depth" 'NR > depth { print "add " $0 } { print "cd " $0 }' /run/path
  } | reg_edit
}

# reg_write PATH: replaces all values of a key, made where missing, by name and type:value lines in turn.
reg_write() {
  cat >/run/values
  reg_make "$1"
  {
    printf 'cd \\%s\nsetval %d\n' "$1" $(($(wc -l </run/values) / 2))
    cat /run/values
  } | reg_edit
}

# reg_set_dword PATH NAME NUMBER: sets one value and keeps the others.
reg_set_dword() {
  {
    reg_values "$1" | awk -v skip="$2" '
      function unescape(text) { gsub(/\\\\/, "\001", text); gsub(/\\"/, "\"", text); gsub("\001", "\\", text); return text }
      {
        at = index($0, "\"=")
        name = substr($0, 2, at - 2); value = substr($0, at + 2)
        if (tolower(name) == tolower(skip)) next
        if (value ~ /^dword:/) value = "dword:0x" substr(value, 7)
        else if (value ~ /^"/) value = "string:" unescape(substr(value, 2, length(value) - 2))
        else if (value ~ /^str\(2\):/) value = "expandstring:" unescape(substr(value, 9, length(value) - 9))
        else if (match(value, /^hex\([0-9]+\):/)) value = "hex:" substr(value, 5, RLENGTH - 6) ":" substr(value, RLENGTH + 1)
        print unescape(name); print value
      }'
    printf '%s\ndword:%d\n' "$2" "$3"
  } | reg_write "$1"
}

reg_delete() {
  ! reg_exists "$1" || printf 'cd \\%s\ndel\n' "$1" | reg_edit
}
