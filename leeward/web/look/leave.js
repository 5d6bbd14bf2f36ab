// Replaces the page by a neutral one at a tap or at Esc three times, and keeps it from coming back by the back button.
// Without this script the same control is a plain link to the same page.
"use strict";
(() => {
  const link = document.querySelector("a.leave");
  if (!link) return;
  const mark = "away";

  const remember = (value) => {
    try {
      if (value) sessionStorage.setItem(mark, value);
      else sessionStorage.removeItem(mark);
    } catch { /* storage may be switched off: the page is replaced all the same */ }
  };
  const remembered = () => {
    try { return sessionStorage.getItem(mark) !== null; } catch { return false; }
  };
  const leave = () => {
    remember("1");
    document.documentElement.hidden = true;
    document.title = "\u200b";
    location.replace(link.href);
  };

  // Earlier pages of the same visit are still behind the neutral one: going back to them leaves again.
  addEventListener("pageshow", (event) => {
    const [visit] = performance.getEntriesByType("navigation");
    const back = event.persisted || (visit && visit.type === "back_forward");
    if (back && remembered()) leave();
    else remember("");
  });

  link.addEventListener("click", (event) => {
    event.preventDefault();
    leave();
  });

  let presses = [];
  addEventListener("keydown", (event) => {
    if (event.repeat) return;
    if (event.key !== "Escape") {
      presses = [];
      return;
    }
    const at = performance.now();
    presses = [...presses.filter((earlier) => at - earlier < 5000), at];
    if (presses.length >= 3) leave();
  });
})();
