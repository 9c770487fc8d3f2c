// Validates custom resources, a JSON list on standard input, against the schemas of their definitions. Prints one line for each error.
// The schemas allow unknown fields; here a field is an error if no type of the API group and version has one of its name.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

import { HTTPRoute } from "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1";
import { ServiceMonitor } from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";

const MODELS = "node_modules/@kubernetes-models";
const KINDS = {
  HTTPRoute: [HTTPRoute, "gateway-api/gateway.networking.k8s.io/v1"],
  ServiceMonitor: [ServiceMonitor, "prometheus-operator/monitoring.coreos.com/v1"],
};
// Fields of the types of Kubernetes itself that these resources have: selectors of labels and of keys of Secrets.
const CORE = ["matchLabels", "matchExpressions", "operator", "values", "key", "name", "optional"];
// Their keys are names that users choose.
const FREE = ["labels", "matchLabels", "annotations"];

function fieldNames(directory) {
  const files = readdirSync(directory).filter((name) => name.endsWith(".d.ts"));
  const matches = files.flatMap((name) => [...readFileSync(join(directory, name), "utf8").matchAll(/^\s*"(\w+)"\??:/gm)]);
  return new Set([...CORE, ...matches.map((match) => match[1])]);
}

function unknownFields(value, known) {
  if (Array.isArray(value)) return value.flatMap((item) => unknownFields(item, known));
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value).flatMap(([name, field]) => {
    if (!known.has(name)) return [name];
    return FREE.includes(name) ? [] : unknownFields(field, known);
  });
}

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const name = `${resource.kind} ${resource.metadata.name}`;
  const [Model, directory] = KINDS[resource.kind] ?? [];
  if (!Model || resource.apiVersion !== new Model().apiVersion) {
    console.log(`${name}: no schema for ${resource.apiVersion}`);
    continue;
  }
  try {
    new Model(resource).validate();
  } catch (error) {
    console.log(`${name}: ${error.message}`);
  }
  const known = fieldNames(join(MODELS, directory));
  for (const field of unknownFields(resource.spec, known)) console.log(`${name}: unknown field ${field}`);
}
