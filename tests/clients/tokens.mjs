// Signs tokens with npm's jose: reads a list of {alg, key, kid, claims} from standard input, and prints a list of tokens. With
// {jwk: pem, alg, kid} in place of a token it prints the public key as a JWK.
import { readFileSync } from "node:fs";
import { SignJWT, exportJWK, importPKCS8, importSPKI } from "jose";

const answers = [];
for (const { alg, key, kid, claims, jwk } of JSON.parse(readFileSync(0, "utf8"))) {
  if (jwk) {
    answers.push({ ...(await exportJWK(await importSPKI(jwk, alg, { extractable: true }))), alg, kid, use: "sig" });
    continue;
  }
  const secret = alg.startsWith("HS") ? new TextEncoder().encode(key) : await importPKCS8(key, alg);
  const header = kid ? { alg, kid } : { alg };
  answers.push(await new SignJWT(claims).setProtectedHeader(header).sign(secret));
}
console.log(JSON.stringify(answers));
