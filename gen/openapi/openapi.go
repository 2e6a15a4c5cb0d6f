// Package openapi holds the OpenAPI 2.0 description of the quota API's REST
// form. 'make generate' writes the JSON; this file only embeds it.
package openapi

import _ "embed"

// JSON is the description.
//
//go:embed quota.swagger.json
var JSON []byte
