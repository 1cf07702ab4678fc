// JSON as text. The log keeps payloads byte for byte; parsing one into JavaScript values would round large
// numbers and sort keys that look like numbers. So what is shown is cut out of the text and only laid out.
// Invariant: every function is given valid JSON (JSON.parse has accepted it).

/** The index behind the string that begins at `at`. */
function endOfString(text, at) {
  for (let end = text.indexOf('"', at + 1); ; end = text.indexOf('"', end + 1)) {
    let escapes = 0;
    while (text[end - 1 - escapes] === "\\") escapes += 1;
    if (escapes % 2 === 0) return end + 1;
  }
}

function skipSpace(text, at) {
  while (" \t\n\r".includes(text[at]) && at < text.length) at += 1;
  return at;
}

/** The index behind the value that begins at `at`. */
function endOfValue(text, at) {
  if (text[at] === '"') return endOfString(text, at);
  let depth = 0;
  while (at < text.length) {
    const character = text[at];
    if (character === '"') {
      at = endOfString(text, at);
      continue;
    }
    if (character === "{" || character === "[") depth += 1;
    else if (character === "}" || character === "]") {
      if (depth === 0) return at;
      depth -= 1;
      if (depth === 0) return at + 1;
    } else if (depth === 0 && (character === "," || " \t\n\r".includes(character))) return at;
    at += 1;
  }
  return at;
}

/** The text of one member of an object, or undefined. */
export function member(text, name) {
  let at = skipSpace(text, skipSpace(text, 0) + 1);
  while (text[at] === '"') {
    const endOfName = endOfString(text, at);
    const key = JSON.parse(text.slice(at, endOfName));
    const begin = skipSpace(text, skipSpace(text, endOfName) + 1);
    const end = endOfValue(text, begin);
    if (key === name) return text.slice(begin, end);
    at = skipSpace(text, end);
    if (text[at] !== ",") return undefined;
    at = skipSpace(text, at + 1);
  }
  return undefined;
}

/** The same JSON, one member a line, every name, number and string as it was written. */
export function layOut(text, longest = 65_536) {
  const lines = [];
  let line = "";
  let depth = 0;
  let size = 0;
  const flush = () => {
    lines.push(line);
    size += line.length;
    line = "  ".repeat(Math.min(depth, 40));
  };
  for (let at = skipSpace(text, 0); at < text.length; at = skipSpace(text, at)) {
    if (size + line.length > longest) return `${lines.join("\n")}\n… cut here: ${text.length.toLocaleString("en")} characters in all`;
    const character = text[at];
    if (character === '"') {
      const end = endOfString(text, at);
      line += end - at > longest ? `${text.slice(at, at + longest)}…` : text.slice(at, end);
      at = end;
    } else if (character === "{" || character === "[") {
      const next = skipSpace(text, at + 1);
      if (text[next] === "}" || text[next] === "]") {
        line += character + text[next];
        at = next + 1;
      } else {
        line += character;
        depth += 1;
        flush();
        at += 1;
      }
    } else if (character === "}" || character === "]") {
      depth -= 1;
      flush();
      line += character;
      at += 1;
    } else if (character === ",") {
      line += ",";
      flush();
      at += 1;
    } else if (character === ":") {
      line += ": ";
      at += 1;
    } else {
      const end = endOfScalar(text, at);
      line += text.slice(at, end);
      at = end;
    }
  }
  lines.push(line);
  return lines.join("\n");
}

function endOfScalar(text, at) {
  while (at < text.length && !",:]}[{ \t\n\r".includes(text[at])) at += 1;
  return at;
}
