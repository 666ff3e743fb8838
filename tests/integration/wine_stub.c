/* Stands for the Windows programs that the first-boot scripts call and Wine lacks, or would take by its word.

   Which program it is, its own file name says. C:\stub\rules.txt has a line for each answer, fields separated by tabs:
   program, part of its arguments, exit status, a file whose content it prints ("-" for none); the first that fits counts.
   Every call is a line of C:\stub\calls.txt. netsh remembers what it was told to set, for each card and of each kind, and
   shows it when asked for that card; findstr is one, for Wine 8 has none; ping waits a moment. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

static const char *element_end(const char *p) {
  if (*p == '\\' && p[1]) return p + 2;
  if (*p != '[') return p + 1;
  for (p += p[1] == '^' ? 3 : 2; *p && *p != ']';) p++;
  return *p ? p + 1 : p;
}

static int same(char a, char b, int fold) { return fold ? tolower(a) == tolower(b) : a == b; }

static int element_fits(const char *p, const char *end, char c, int fold) {
  int not, found = 0;
  if (*p == '\\') return same(p[1], c, fold);
  if (*p == '.') return 1;
  if (*p != '[') return same(*p, c, fold);
  not = p[1] == '^';
  for (p += not ? 2 : 1; p < end - 1; p++) {
    if (p[1] == '-' && p + 2 < end - 1) {
      char low = fold ? tolower(c) : c;
      found |= (low >= p[0] && low <= p[2]) || (c >= p[0] && c <= p[2]);
      p += 2;
    } else found |= same(*p, c, fold);
  }
  return not ? !found : found;
}

static int fits_here(const char *p, const char *text, int fold) {
  const char *end;
  if (!*p) return 1;
  if (*p == '$' && !p[1]) return !*text;
  end = element_end(p);
  if (*end == '*') {
    do {
      if (fits_here(end + 1, text, fold)) return 1;
    } while (*text && element_fits(p, end, *text++, fold));
    return 0;
  }
  return *text && element_fits(p, end, *text, fold) && fits_here(end, text + 1, fold);
}

static int fits(const char *p, const char *text, int regular, int fold) {
  size_t length = strlen(p);
  if (regular && *p == '^') return fits_here(p + 1, text, fold);
  do {
    if (regular ? fits_here(p, text, fold) : !(fold ? _strnicmp(text, p, length) : strncmp(text, p, length))) return 1;
  } while (*text++);
  return 0;
}

static int findstr(int argc, char **argv) {
  const char *patterns[16];
  char line[4096];
  int count = 0, regular = 1, fold = 0, others = 0, found = 0, i, n;
  for (i = 1; i < argc && argv[i][0] == '/'; i++) {
    switch (tolower(argv[i][1])) {
      case 'i': fold = 1; break;
      case 'l': regular = 0; break;
      case 'r': regular = 1; break;
      case 'v': others = 1; break;
      case 'c': patterns[count++] = argv[i] + 3; break;
      default: return 2;
    }
  }
  for (; i < argc; i++) {
    FILE *file = fopen(argv[i], "rb");
    if (!file) return 1;
    while (fgets(line, sizeof line, file)) {
      int hit = 0;
      line[strcspn(line, "\r\n")] = 0;
      for (n = 0; n < count; n++) hit |= fits(patterns[n], line, regular, fold);
      if (hit != others) {
        printf("%s\r\n", line);
        found = 1;
      }
    }
    fclose(file);
  }
  return !found;
}

/* netsh: a line of its state has family, kind, the card's index and a value. A set replaces what the card had of that kind. */
#define STATE "C:\\stub\\netsh-state.txt"

static int card_of(const char *arguments) {
  const char *at = strstr(arguments, "name=");
  int card = 0;
  if (!at) at = strstr(arguments, "interface=");
  if (at) return atoi(strchr(at, '=') + 1);
  sscanf(arguments, " interface %*s %*s %*s %d", &card);
  return card;
}

static void forget(const char *family, const char *kind, int card) {
  char lines[256][300], old_family[16], old_kind[32], value[256];
  int count = 0, old_card, n;
  FILE *state = fopen(STATE, "r");
  while (state && count < 256 && fgets(lines[count], sizeof lines[0], state)) count++;
  if (state) fclose(state);
  state = fopen(STATE, "w");
  for (n = 0; n < count; n++) {
    if (sscanf(lines[n], "%15s %31s %d %255s", old_family, old_kind, &old_card, value) != 4) continue;
    if (strcmp(old_family, family) || strcmp(old_kind, kind) || old_card != card) fputs(lines[n], state);
  }
  fclose(state);
}

static void netsh(const char *arguments) {
  static const char *names[] = {"address=", "gateway=", "nexthop="};
  char family[16], verb[16], kind[32], value[256], own_family[16], own_kind[32];
  int card = card_of(arguments), own_card, n;
  FILE *state;
  if (sscanf(arguments, " interface %15s %15s %31s", family, verb, kind) != 3) return;
  if (!strcmp(verb, "set") || !strcmp(verb, "add")) {
    if (!strcmp(verb, "set")) forget(family, kind, card);
    state = fopen(STATE, "a");
    for (n = 0; n < 3; n++) {
      const char *at = strstr(arguments, names[n]);
      if (!at || sscanf(at + strlen(names[n]), "%255[^ /]", value) != 1 || !strcmp(value, "none")) continue;
      fprintf(state, "%s %s %d %s\n", family, kind, card, value);
    }
    fclose(state);
    return;
  }
  if (!strcmp(kind, "addresses")) strcpy(kind, "address");
  state = strcmp(verb, "show") ? NULL : fopen(STATE, "r");
  while (state && fscanf(state, "%15s %31s %d %255s", own_family, own_kind, &own_card, value) == 4) {
    if (strcmp(family, own_family) || strcmp(kind, own_kind)) continue;
    if (!strcmp(kind, "route")) printf("No       Manual    256  ::/0                      %3d  %s\n", own_card, value);
    else if (own_card == card) printf("    Value:     %s\n", value);
  }
  if (state) fclose(state);
}

int main(int argc, char **argv) {
  char own[MAX_PATH], line[1024], *name, *arguments = GetCommandLineA();
  FILE *file;
  int hang, number;
  GetModuleFileNameA(NULL, own, sizeof own);
  name = strrchr(own, '\\') + 1;
  *strchr(name, '.') = 0;
  if (!_stricmp(name, "findstr")) return findstr(argc, argv);
  arguments += *arguments == '"' ? strcspn(arguments + 1, "\"") + 2 : strcspn(arguments, " ");
  if (!_stricmp(name, "ping")) {
    Sleep(100); /* a second of the scripts'; a busy host needs some of them to start a program */
    return 0;
  }
  file = fopen("C:\\stub\\calls.txt", "a");
  fprintf(file, "%s%s\n", name, arguments);
  fclose(file);
  file = fopen("C:\\stub\\rules.txt", "r");
  while (file && fgets(line, sizeof line, file)) {
    char *program = strtok(line, "\t"), *part = strtok(NULL, "\t"), *status = strtok(NULL, "\t"), *shown = strtok(NULL, "\t\r\n");
    if (!shown || _stricmp(program, name) || (strcmp(part, "*") && !strstr(arguments, part))) continue;
    hang = !strcmp(status, "hang");
    number = atoi(status);
    if (strcmp(shown, "-")) {
      FILE *text = fopen(shown, "r");
      while (text && fgets(line, sizeof line, text)) fputs(line, stdout);
    }
    if (hang) Sleep(600000);
    return number;
  }
  if (!_stricmp(name, "netsh")) netsh(arguments);
  return 0;
}
