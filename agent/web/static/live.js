"use strict";
// Puts newer numbers in place. The server sends the page again every two
// seconds; the parts marked data-live are exchanged, but for one that the reader is
// in: what has the focus, or is being selected, stays as it is.
const pause = document.getElementById("pause");
let source = null;

function busy(part) {
  if (part.contains(document.activeElement)) return true;
  const selection = getSelection();
  return !selection.isCollapsed && selection.containsNode(part, true);
}

function update(event) {
  const page = new DOMParser().parseFromString(JSON.parse(event.data), "text/html");
  for (const part of page.querySelectorAll("[data-live]")) {
    const old = document.getElementById(part.id);
    if (!old || busy(old) || old.isEqualNode(part)) continue;
    for (const open of old.querySelectorAll("details[open]")) {
      const details = part.querySelector("#" + CSS.escape(open.id));
      if (details) details.open = true;
    }
    const offsets = Array.from(old.querySelectorAll(".scroll"), (e) => e.scrollLeft);
    old.replaceWith(part);
    part.querySelectorAll(".scroll").forEach((e, i) => { e.scrollLeft = offsets[i] || 0; });
  }
}

function start() {
  source = new EventSource(location.href);
  source.onmessage = update;
  source.onerror = () => { // it tries again by itself, unless it was refused
    if (source && source.readyState === EventSource.CLOSED) pause.hidden = true;
  };
}

pause.addEventListener("click", () => {
  const stop = source !== null;
  pause.setAttribute("aria-pressed", String(stop));
  if (stop) {
    source.close();
    source = null;
  } else {
    start();
  }
});

// A page that cannot be shown is not worth asking for again.
if (document.querySelector("[data-page]")) {
  pause.hidden = false;
  start();
}
