// Shows the service's own description of its API; all addresses are relative.
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null, // it is on the internet
  defaultModelsExpandDepth: 0,
});
