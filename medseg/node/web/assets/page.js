"use strict";
// Everything works without this script; with it the page keeps itself up to date.
document.documentElement.classList.add("js");

const EVERY_MS = 5000;
const live = () => document.getElementById("live");
let paused = false;

function tell(kind, text) {
  const line = document.querySelector(".fresh");
  if (line === null) return;
  line.classList.toggle("late", kind === "late");
  line.classList.toggle("still", kind === "still");
  document.getElementById("fresh").textContent = text;
}

function replaceWith(text) {
  const other = new DOMParser().parseFromString(text, "text/html");
  const fresh = other.getElementById("live");
  if (fresh === null) return;
  const focused = live().contains(document.activeElement) ? document.activeElement.id : "";
  const scrolled = [...live().querySelectorAll(".scroll")].map((box) => box.scrollLeft);
  live().replaceWith(document.adoptNode(fresh));
  live().querySelectorAll(".scroll").forEach((box, index) => { box.scrollLeft = scrolled[index] ?? 0; });
  if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  tell("fresh", other.getElementById("fresh").textContent);
}

function busy() {
  // Text that somebody selects, and rows under a pointer that is down, stay where they are.
  return paused || document.hidden || !getSelection().isCollapsed || live().matches(":active");
}

async function refresh() {
  if (live() === null) return;
  if (!busy()) {
    try {
      const reply = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
      if (new URL(reply.url).pathname === "/login") { location.reload(); return; }
      if (!reply.ok) throw new Error(String(reply.status));
      const text = await reply.text();
      if (!busy()) replaceWith(text);
    } catch {
      tell("late", "the node does not answer; these rows are old");
    }
  }
  setTimeout(refresh, EVERY_MS);
}

document.getElementById("pause")?.addEventListener("click", (event) => {
  paused = !paused;
  event.target.setAttribute("aria-pressed", String(paused));
  event.target.textContent = paused ? "Go on" : "Pause";
  tell(paused ? "still" : "fresh", paused ? "paused" : "going on");
});

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.sure;
  if (question && !confirm(question)) event.preventDefault();
});

// Once read, it need not be said again after a reload.
const shown = new URL(location.href);
if (shown.searchParams.has("said")) {
  shown.searchParams.delete("said");
  history.replaceState(null, "", shown);
}
setTimeout(refresh, EVERY_MS);
