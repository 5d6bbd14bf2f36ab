// node send.mjs SENDER PORT FILE [CA CERTIFICATE KEY]: sends the file's one message with somebody else's client, and
// prints MSA-1 and MSA-2 of the acknowledgement as that client understood it.
import { readFileSync } from "node:fs";

const [sender, port, file, ...tls] = process.argv.slice(2);
const text = readFileSync(file, "utf8");

const senders = {
  async "simple-hl7"() {
    const { default: hl7 } = await import("simple-hl7");
    const message = new hl7.Parser({ segmentSeperator: "\r" }).parse(text.replace(/\r$/, ""));
    const client = hl7.Server.createTcpClient("127.0.0.1", Number(port));
    const answer = await new Promise((resolve, reject) =>
      client.send(message, (fault, got) => (fault ? reject(fault) : resolve(got))),
    );
    const msa = answer.getSegment("MSA");
    return [msa.getField(1), msa.getField(2)];
  },
  async "@medplum/hl7"() {
    const { Hl7Client } = await import("@medplum/hl7");
    const { Hl7Message } = await import("@medplum/core");
    const client = new Hl7Client({ host: "127.0.0.1", port: Number(port) });
    const answer = await client.sendAndWait(Hl7Message.parse(text));
    await client.close();
    const msa = answer.getSegment("MSA");
    return [msa.getField(1).toString(), msa.getField(2).toString()];
  },
  async "node-hl7-client"() {
    const { Client, Message } = await import("node-hl7-client");
    const [ca, cert, key] = tls.map((path) => readFileSync(path));
    const secured = ca ? { tls: { ca, cert, key, rejectUnauthorized: true } } : {};
    const client = new Client({ host: "127.0.0.1", version: "2.5", ...secured });
    let answered;
    const answer = new Promise((resolve) => (answered = resolve));
    const connection = client.createConnection({ port: Number(port), maxConnectionAttempts: 1 }, answered);
    connection.on?.("error", (fault) => { throw fault; });
    connection.on?.("client.error", (fault) => { throw fault; });
    await connection.sendMessage(new Message({ text }));
    const got = (await answer).getMessage();
    await connection.close();
    return [got.get("MSA.1").toString(), got.get("MSA.2").toString()];
  },
};

const patience = setTimeout(() => { throw new Error("no acknowledgement in time"); }, 15000);
console.log((await senders[sender]()).join(" "));
clearTimeout(patience);
process.exit(0);
