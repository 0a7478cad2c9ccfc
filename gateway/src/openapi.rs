//! The OpenAPI 3.1 document and the schema of a box spec, made from the table and the model's types.

use gtvp_model::boxspec::BoxSpec;
use gtvp_model::fault::Fault;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::table::{Content, QueryKind, ROUTES, Route};

/// Statuses that every row may answer with a fault: bad request, not allowed, a defect, a part that restarts.
const ALWAYS: [u16; 4] = [400, 403, 500, 503];

/// The document.
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| {
        s.definitions_path = "/components/schemas".into();
        s.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let fault = generator.subschema_for::<Fault>().to_value();
    let mut paths = Map::new();
    for route in ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.as_str().to_lowercase()] = operation(route, &fault, &mut generator);
    }
    let schemas = generator.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "GTVP",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "One member's API on a unix socket. Who you are is what the kernel says about your connection.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://localhost", "description": "over the member's unix socket" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

/// The document as text.
pub fn document_text() -> String {
    document().to_string()
}

/// JSON Schema of a box spec.
pub fn boxspec() -> Value {
    let mut schema = schemars::schema_for!(BoxSpec).to_value();
    schema["title"] = "A lazy box".into();
    schema["examples"] = json!([{ "name": "web", "needs": ["nginx"], "command": ["nginx", "-g", "daemon off;"], "publish": ["8080:80"] }]);
    schema
}

/// The schema as text.
pub fn boxspec_text() -> String {
    boxspec().to_string()
}

fn operation(route: &Route, fault: &Value, generator: &mut SchemaGenerator) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(route.query.iter().map(|q| {
        let schema = match q.kind {
            QueryKind::Flag => json!({ "type": "boolean", "default": false }),
            QueryKind::Number => json!({ "type": "integer", "minimum": 0 }),
            QueryKind::Words(words) => json!({ "type": "string", "enum": words, "default": words[0] }),
            QueryKind::Hex(min, max) => {
                json!({ "type": "string", "pattern": format!("^([0-9a-fA-F]{{2}}){{{min},{max}}}$") })
            }
        };
        let required = matches!(q.kind, QueryKind::Hex(..));
        json!({ "name": q.name, "in": "query", "required": required, "description": q.summary, "schema": schema })
    }));
    let mut responses = Map::new();
    let mut success = json!({ "description": route.summary });
    if let Some(reply) = &route.reply {
        success["content"] = content(reply, generator);
    }
    responses.insert(route.status.to_string(), success);
    let mut faults: Vec<u16> = ALWAYS.iter().chain(route.faults).copied().collect();
    if route.body.is_some() {
        faults.extend([408, 413]);
    }
    faults.sort_unstable();
    for status in faults {
        responses.insert(
            status.to_string(),
            json!({ "description": description(status), "content": { "application/json": { "schema": fault } } }),
        );
    }
    let mut operation = json!({
        "operationId": route.id, "tags": [route.tag], "summary": route.summary,
        "parameters": parameters, "responses": responses,
    });
    if let Some(body) = &route.body {
        operation["requestBody"] = json!({ "required": true, "content": content(body, generator) });
    }
    operation
}

fn content(content: &Content, generator: &mut SchemaGenerator) -> Value {
    let mut media = match content.schema {
        Some(schema) => json!({ "schema": schema(generator).to_value() }),
        None => json!({}),
    };
    if !content.example.is_empty() {
        // An example that is no JSON is text.
        media["example"] = serde_json::from_str(content.example).unwrap_or_else(|_| content.example.into());
    }
    json!({ content.media: media })
}

fn description(status: u16) -> &'static str {
    match status {
        400 => "The request itself is wrong.",
        403 => "The caller may not do this.",
        404 => "What it names does not exist.",
        408 => "The request's body did not arrive in time.",
        409 => "The name or port is taken, or the state does not allow this.",
        413 => "The request's body is too long.",
        422 => "The box failed, or bytes are not what their digest says.",
        426 => "This needs an upgraded connection.",
        502 => "A source of components cannot be reached.",
        503 => "A part of the member is restarting: the same request may succeed in a moment.",
        507 => "The member has not enough memory, slots or disk.",
        _ => "A defect in GTVP, or a host that does not behave.",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use gtvp_model::{api, unionview};

    use super::*;

    fn references<'v>(value: &'v Value, into: &mut BTreeSet<&'v str>) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(r)) = map.get("$ref") {
                    into.insert(r);
                }
                map.values().for_each(|v| references(v, into));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, into)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let document = document();
        let mut all = BTreeSet::new();
        references(&document, &mut all);
        assert!(all.contains("#/components/schemas/BoxSpec"), "{all:?}");
        for reference in all {
            assert!(
                document.pointer(reference.trim_start_matches('#')).is_some(),
                "{reference} leads nowhere"
            );
        }
    }

    #[test]
    fn operation_ids_and_rows_are_unique_and_every_path_value_is_declared() {
        let mut seen = BTreeSet::new();
        for route in ROUTES {
            assert!(seen.insert(route.id), "{} stands twice", route.id);
            assert!(seen.insert(Box::leak(format!("{} {}", route.method, route.path).into_boxed_str())));
        }
        let document = document();
        let declared = &document["paths"]["/v1/boxes/{name}"]["get"]["parameters"];
        assert_eq!(declared[0]["name"], "name");
    }

    fn reads<T: serde::de::DeserializeOwned>(body: &Content) -> bool {
        serde_json::from_str::<T>(body.example).is_ok()
    }

    #[test]
    fn examples_of_bodies_are_bodies() {
        for route in ROUTES {
            let Some(body) = &route.body else { continue };
            let ok = match route.id {
                "createBox" => reads::<BoxSpec>(body),
                "setBox" => reads::<api::BoxChange>(body),
                "signalBox" => reads::<api::SignalBody>(body),
                "execBox" => reads::<api::ExecBody>(body),
                "importComponent" => reads::<api::ImportBody>(body),
                "buildTemplate" => reads::<gtvp_model::template::TemplateWish>(body),
                "beginUnion" => reads::<unionview::UnionBegin>(body),
                "joinUnion" => reads::<unionview::UnionJoin>(body),
                "createToken" => reads::<unionview::TokenWish>(body),
                "evictMember" => reads::<unionview::Eviction>(body),
                "leaveByForce" => reads::<unionview::ForcedLeave>(body),
                "recoverUnion" => reads::<unionview::RecoveryWish>(body),
                "followRecovery" => reads::<unionview::RecoveryFollow>(body),
                "acceptReference" => reads::<unionview::ReferenceWish>(body),
                other => panic!("{other} has a body that this test does not know"),
            };
            assert!(ok, "{}", route.id);
        }
    }

    #[test]
    fn each_reply_example_reads_as_its_type() {
        for route in ROUTES {
            let Some(reply) = &route.reply else { continue };
            if reply.schema.is_some() && !reply.example.is_empty() {
                assert!(serde_json::from_str::<Value>(reply.example).is_ok(), "{}", route.id);
            }
        }
    }
}
