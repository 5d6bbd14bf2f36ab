// The page's own token steps without a browser, one a call; arguments and answer are JSON.
//
//   node drive.js keep  '{"issuer": URL, "box": URL, "assertion": TEXT}'                       -> {"code": TEXT}
//   node drive.js spend '{"box": URL, "code": TEXT, "rating": {"items": {...}, "tags": []}}'   -> {"result": "kept"}
//     both also take a list of such objects, and then give a list
//   node drive.js begin|finish|seal|readCode '[arguments of token.js]'                          -> what it returns
//
// Exit code 1 with {"refused": code} on the error stream where issuer or box say no.
import * as token from "./static/token.js";

const each = (step) => (given) => (Array.isArray(given) ? Promise.all(given.map(step)) : step(given));

const steps = {
  keep: each(async (given) => ({ code: await token.keep(given) })),
  spend: each((given) => token.spend(given)),
  begin: (given) => token.begin(...given),
  finish: async (given) => ({ code: await token.finish(...given) }),
  seal: async (given) => ({ sealed: await token.seal(...given) }),
  readCode: (given) => token.readCode(...given),
};

const [step, given] = process.argv.slice(2);
try {
  console.log(JSON.stringify(await steps[step](JSON.parse(given))));
} catch (fault) {
  console.error(JSON.stringify({ refused: fault.code || fault.name }));
  process.exitCode = 1;
}
