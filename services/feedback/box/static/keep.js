// The page that makes a code. What must outlive a reload is kept in this tab alone; closing the tab forgets it.
// Only "keep it in this browser" writes anything that stays.
import { keep } from "./token.js";

const page = document.getElementById("keep");
const part = (id) => document.getElementById(id);
const say = (name) => {
  part("said").hidden = false;
  part("said").textContent = page.dataset[name];
};

/** Storage may be switched off; the code is then shown all the same. */
const remembered = (store, name) => {
  try {
    return JSON.parse(store.getItem(name));
  } catch {
    return null;
  }
};
const remember = (store, name, value) => {
  try {
    if (value === null) store.removeItem(name);
    else store.setItem(name, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
};

const caseOf = (assertion) => {
  try {
    const body = assertion.split(".")[1].replaceAll("-", "+").replaceAll("_", "/");
    return JSON.parse(atob(body)).case_ref;
  } catch {
    return null;
  }
};

/** The assertion leaves the address bar and the history at once. */
function arrived() {
  const assertion = location.hash.slice(1);
  if (!assertion) return remembered(sessionStorage, "way");
  history.replaceState(null, "", location.pathname);
  const earlier = remembered(sessionStorage, "way");
  const same = earlier && caseOf(earlier.assertion) === caseOf(assertion);
  const way = { assertion, state: same ? earlier.state : null };
  remember(sessionStorage, "way", way);
  return way;
}

function show(code) {
  part("ask").hidden = true;
  part("ready").hidden = false;
  part("code").textContent = code;
  part("file").href = URL.createObjectURL(new Blob([`${code}\n`], { type: "text/plain" }));
  say("done");
}

async function make(way) {
  part("make").disabled = true;
  say("making");
  const save = (state) => remember(sessionStorage, "way", { ...way, state });
  try {
    const { assertion, state } = way;
    const code = await keep({ issuer: page.dataset.issuer, box: location.origin, assertion, saved: state, save });
    remember(sessionStorage, "code", code);
    remember(sessionStorage, "way", null);
    show(code);
  } catch (fault) {
    const known = { "no-claim": "noClaim", "already-used": "alreadyUsed", "not-yet": "notYet" };
    way.state = remembered(sessionStorage, "way")?.state ?? way.state;
    part("make").disabled = false;
    say(known[fault.code] || "failed");
  }
}

function forget() {
  remember(sessionStorage, "code", null);
  part("ready").hidden = true;
  part("code").textContent = "";
  URL.revokeObjectURL(part("file").href);
  say("cleared");
}

part("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(part("code").textContent);
    say("copied");
  } catch {
    getSelection().selectAllChildren(part("code"));
    say("selected");
  }
});
part("print").addEventListener("click", () => print());
part("own").addEventListener("click", () => {
  if (remember(localStorage, "code", part("code").textContent)) say("kept");
  else say("failed");
});
part("clear").addEventListener("click", forget);

addEventListener("hashchange", () => location.reload()); // the same page, opened from another message

part("script").hidden = true;
const way = arrived();
const code = remembered(sessionStorage, "code");
if (way) {
  part("ask").hidden = false;
  part("make").addEventListener("click", () => make(way));
} else if (code) {
  show(code);
} else {
  say("noLink");
}
