// The page that seals a rating. It sends once: the code, and what only the box can open after the window.
import { NotACode, readCode, spend } from "./token.js";

const form = document.getElementById("rate");
const part = (id) => document.getElementById(id);
const KNOWN = { "not-open": "notOpen", "already-given": "alreadyGiven", "no-token": "noToken", "not-valid": "notACode" };

const say = (name) => {
  part("said").hidden = false;
  part("said").textContent = form.dataset[name];
};
const kept = () => {
  try {
    return JSON.parse(localStorage.getItem("code"));
  } catch {
    return null;
  }
};

function rating() {
  const given = new FormData(form);
  const items = {};
  for (const { name } of form.querySelectorAll("input[type=radio]")) items[name] = Number(given.get(name) || 0);
  return { items, tags: given.getAll("tags") };
}

// the same answer sent again must be the same sealed text, or the box would take it for another one
let sent = { what: null, sealed: null };

async function send() {
  const code = part("code").value;
  const answer = rating();
  const what = readCode(code).signature + JSON.stringify(answer);
  const saved = sent.what === what ? sent.sealed : null;
  const save = (sealed) => {
    sent = { what, sealed };
  };
  await spend({ box: location.origin, code, rating: answer, saved, save });
}

function finish() {
  if (kept() === part("code").value.trim()) localStorage.removeItem("code");
  form.reset();
  form.hidden = true;
  part("done").hidden = false;
  part("done").focus();
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  part("send").disabled = true;
  part("code").removeAttribute("aria-invalid");
  say("sending");
  try {
    await send();
    finish();
  } catch (fault) {
    const bad = fault instanceof NotACode;
    if (bad) {
      part("code").setAttribute("aria-invalid", "true");
      part("code").focus();
    }
    say(bad ? "notACode" : KNOWN[fault.code] || "failed");
  } finally {
    part("send").disabled = false;
  }
});

async function takeFile() {
  const [file] = part("file").files;
  if (file) part("code").value = (await file.text()).trim();
}
part("file").addEventListener("change", takeFile);
takeFile(); // a reload may have kept it

if (kept()) {
  part("kept").hidden = false;
  part("use").addEventListener("click", () => {
    part("code").value = kept();
  });
}
part("script").hidden = true;
form.hidden = false;
