// The life of a token: begin, (the issuer signs), finish, read; and the sealing of a rating.
// Runs unchanged in a browser and in Node 20 or newer. Everything that goes in or out is text, so that it can be saved.
//
//   begin(key)              key {epoch, key} as the issuer publishes it -> state, to be saved before anybody is asked
//   finish(state, signed)   the issuer's blind signature -> the code that the person keeps
//   readCode(text)          a kept code, however it was wrapped -> {epoch, prepared, signature}; throws NotACode
//   seal(sealKey, rating)   {items: {item: 0..5}, tags: [tag]} -> what only the box opens, the same size whatever it says
//   keep(...), spend(...)   the same with the requests in between; see below
import { RSABSSA } from "./blindrsa.js";

const SUITE = RSABSSA.SHA384.PSS.Randomized();
const NONCE = 32; // bytes
const EPOCH = 8; // bytes: 16 hex characters
const PREPARED = 64; // bytes
const PAYLOAD = 256; // bytes
const CHANGING = new Set(["epoch-changed", "key-not-known"]);
const TRIES = 9;

export class NotACode extends Error {
  name = "NotACode";
}

/** An answer that was no success: `status` (HTTP) and `code`, the last word of the problem's type. */
export class Refused extends Error {
  name = "Refused";

  constructor(status, code) {
    super(`${status} ${code}`);
    this.status = status;
    this.code = code;
  }
}

export const toText = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
export const toBytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

const signingKey = (spki) =>
  crypto.subtle.importKey("spki", toBytes(spki), { name: "RSA-PSS", hash: "SHA-384" }, true, ["verify"]);

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");

export async function fingerprint(spki) {
  return hex(new Uint8Array(await crypto.subtle.digest("SHA-256", toBytes(spki))));
}

/** RFC 9474 §4.1 and §4.2: prepare a fresh nonce and blind it. */
export async function begin({ epoch, key }) {
  const prepared = SUITE.prepare(crypto.getRandomValues(new Uint8Array(NONCE)));
  const { blindedMsg, inv } = await SUITE.blind(await signingKey(key), prepared);
  return { epoch, key, prepared: toText(prepared), inv: toText(inv), blinded: toText(blindedMsg) };
}

/** RFC 9474 §4.4: unblind and check. What comes out has never been seen by the issuer. */
export async function finish(state, signed) {
  const { key, prepared, inv, epoch } = state;
  const signature = await SUITE.finalize(await signingKey(key), toBytes(prepared), toBytes(signed), toBytes(inv));
  const parts = [epoch.match(/../g).map((pair) => parseInt(pair, 16)), toBytes(prepared), signature];
  return toText(parts.flatMap((part) => Array.from(part))).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

export function readCode(text) {
  const packed = text.replace(/[^A-Za-z0-9_-]/g, "").replaceAll("-", "+").replaceAll("_", "/");
  let bytes;
  try {
    bytes = toBytes(packed);
  } catch {
    throw new NotACode();
  }
  if (bytes.length <= EPOCH + PREPARED) throw new NotACode();
  return {
    epoch: hex(bytes.subarray(0, EPOCH)),
    prepared: toText(bytes.subarray(EPOCH, EPOCH + PREPARED)),
    signature: toText(bytes.subarray(EPOCH + PREPARED)),
  };
}

/** RSA-OAEP with SHA-256 to the epoch's seal key, padded first: length tells nothing. */
export async function seal(sealKey, { items, tags }) {
  const text = new TextEncoder().encode(JSON.stringify({ items, tags }).padEnd(PAYLOAD));
  if (text.length !== PAYLOAD) throw new RangeError("a rating has a fixed size");
  const algorithm = { name: "RSA-OAEP", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("spki", toBytes(sealKey), algorithm, false, ["encrypt"]);
  return toText(new Uint8Array(await crypto.subtle.encrypt({ name: "RSA-OAEP" }, key, text)));
}

async function ask(url, body) {
  const quiet = { credentials: "omit", referrerPolicy: "no-referrer", cache: "no-store" };
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(url, body ? { ...quiet, ...post } : quiet);
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, String(found.type || "").split(/[/:#]/).pop());
  return found;
}

/** The key that signs now, only if issuer and box show everybody the same one. */
export async function currentKey(issuer, box) {
  const [theirs, pinned] = await Promise.all([ask(`${issuer}/v1/keys`), ask(`${box}/v1/epochs`)]);
  const key = theirs.epochs.find((epoch) => epoch.state === "issuing");
  const seen = key && pinned.epochs.find((epoch) => epoch.epoch === key.epoch);
  if (!seen || seen.fingerprint !== (await fingerprint(key.key))) throw new Refused(409, "key-not-known");
  return key;
}

/**
 * From an assertion to a code. `saved` is the state of an earlier try, `save(state)` is called before the issuer is.
 * A try that broke off is repeated with the same state and gets the same answer; nobody gets two codes for one case.
 */
export async function keep({ issuer, box, assertion, saved = null, save = () => {} }) {
  let state = saved;
  for (let tries = 1; ; tries += 1) {
    try {
      if (!state) {
        state = await begin(await currentKey(issuer, box));
        await save(state);
      }
      const { epoch, blinded } = state;
      const { signature } = await ask(`${issuer}/v1/claims/mint`, { assertion, epoch, blinded });
      return await finish(state, signature);
    } catch (fault) {
      // an epoch has just changed: the next key is known to both within half a minute
      if (!CHANGING.has(fault.code) || tries === TRIES) throw fault;
      state = null;
      await new Promise((done) => setTimeout(done, tries * 1000));
    }
  }
}

/** Epochs whose ratings the box takes now: [{epoch, seal_key, closes}]. */
export async function open(box) {
  return (await ask(`${box}/v1/epochs`)).epochs.filter((epoch) => epoch.state === "rating");
}

/**
 * A code and a rating to the box. `saved` is a sealed rating of an earlier try: the same again gets the same answer.
 * Throws Refused with code `not-open` when the code's window is not open.
 */
export async function spend({ box, code, rating, saved = null, save = () => {} }) {
  const token = readCode(code);
  const window = (await open(box)).find(({ epoch }) => epoch === token.epoch);
  if (!window) throw new Refused(409, "not-open");
  const sealed = saved || (await seal(window.seal_key, rating));
  await save(sealed);
  return ask(`${box}/v1/ratings`, { ...token, sealed });
}
