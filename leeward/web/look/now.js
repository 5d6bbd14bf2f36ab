// "I need somebody now": the numbers are in the page already and show at once, whatever the network does; the call for the
// professional goes out behind them. Without this script the form is sent and the next page shows the same.
"use strict";
(() => {
  const form = document.querySelector("form[data-now]");
  const numbers = document.querySelector("[data-numbers]");
  if (!form || !numbers) return;
  const said = numbers.querySelector("[data-said]");

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    numbers.open = true;
    form.hidden = true;
    said.hidden = false;
    said.textContent = said.dataset.asking;
    numbers.querySelector("a[href]")?.focus();
    numbers.scrollIntoView({ block: "start" });
    try {
      const body = new URLSearchParams(new FormData(form, event.submitter));
      const answer = await fetch(form.getAttribute("action") || location.href, { method: "POST", body, redirect: "follow" });
      said.textContent = answer.ok ? said.dataset.asked : said.dataset.failed;
    } catch {
      said.textContent = said.dataset.failed;
    }
  });
})();
