// node crds.mjs PACKAGES < a JSON list of custom resources: what their definitions object to, one line each.
// The validators are compiled from the operators' CRDs. They let unknown fields pass, as the API server prunes them, so
// each object is wrapped to see which of its fields a validator never asked for.
import { readFileSync } from "node:fs";

const SCHEMAS = {
  ServiceMonitor: "prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1ServiceMonitor.js",
  PrometheusRule: "prometheus-operator/_schemas/ComGithubPrometheusOperatorPrometheusOperatorPkgApisMonitoringV1PrometheusRule.js",
  HTTPRoute: "gateway-api/_schemas/IoK8sSigsGatewayApiApisV1HTTPRoute.js",
  ScaledObject: "keda/_schemas/ComGithubKedacoreKedaV2ApisKedaV1alpha1ScaledObject.js",
};

function watched(value, path, unread) {
  if (value === null || typeof value !== "object") return value;
  const fields = Object.fromEntries(Object.keys(value).map((key) => [key, watched(value[key], `${path}/${key}`, unread)]));
  const target = Array.isArray(value) ? Object.values(fields) : fields;
  if (!Array.isArray(value)) Object.keys(value).forEach((key) => unread.add(`${path}/${key}`));
  return new Proxy(target, {
    get(object, key) {
      unread.delete(`${path}/${String(key)}`);
      return object[key];
    },
  });
}

for (const resource of JSON.parse(readFileSync(0, "utf8"))) {
  const { validate } = await import(`${process.argv[2]}/@kubernetes-models/${SCHEMAS[resource.kind]}`);
  const unread = new Set();
  if (!validate(watched(resource, resource.kind, unread)))
    for (const error of validate.errors) console.log(`${resource.kind}${error.instancePath}: ${JSON.stringify(error.params)}`);
  for (const path of unread) console.log(`${path}: no such field`);
}
