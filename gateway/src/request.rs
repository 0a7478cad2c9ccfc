//! A person's request: which row of the table it is for, its path and query values, its body. Bounds everything.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gtvp_model::component::unescape;
use gtvp_model::fault::{Fault, FaultKind};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::de::DeserializeOwned;

use crate::respond::Refusal;
use crate::table::{ROUTES, Route};

/// Most bytes of a request's body: a box spec with [`gtvp_model::boxspec::MAX_ARGS_BYTES`] of arguments, each byte escaped.
pub const MAX_BODY: usize = 1024 * 1024;
/// Time for a body to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);
/// Most bytes of one value in a path or a query.
const MAX_VALUE: usize = 1024;

/// A request that a row of the table answers.
pub struct Context {
    /// The row.
    pub route: &'static Route,
    /// Where `management` answers.
    pub management: Arc<Path>,
    /// The request, for an upgrade or its body.
    pub request: Request<Incoming>,
    path: Vec<String>,
    query: Vec<(String, String)>,
    person: Arc<OwnedFd>,
}

impl Context {
    /// Finds the row and reads path and query.
    pub fn new(
        request: Request<Incoming>,
        person: Arc<OwnedFd>,
        management: Arc<Path>,
    ) -> Result<Self, Refusal> {
        let (route, path) = find(request.method(), request.uri().path())?;
        let query = parse_query(request.uri().query().unwrap_or(""), route)?;
        Ok(Self { route, management, request, path, query, person })
    }

    /// The person's connection.
    pub fn person(&self) -> BorrowedFd<'_> {
        self.person.as_fd()
    }

    /// The path's only value.
    pub fn value(&self) -> String {
        self.path.first().cloned().unwrap_or_default()
    }

    /// A value of the query.
    pub fn query(&self, key: &str) -> Option<&str> {
        self.query.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// A yes or no of the query; naming it is a yes.
    pub fn flag(&self, key: &str) -> Result<bool, Fault> {
        match self.query(key) {
            None | Some("false" | "0") => Ok(false),
            Some("" | "true" | "1") => Ok(true),
            Some(other) => Err(invalid(format!("{key}={other:?} is neither true nor false"))),
        }
    }

    /// A number of the query.
    pub fn number(&self, key: &str) -> Result<Option<u64>, Fault> {
        self.query(key)
            .map(|v| v.parse().map_err(|_| invalid(format!("{key}={v:?} is not a whole number"))))
            .transpose()
    }

    /// The body, as JSON of this type.
    pub async fn body<T: DeserializeOwned>(&mut self) -> Result<T, Refusal> {
        let body = Limited::new(self.request.body_mut(), MAX_BODY);
        let bytes = match tokio::time::timeout(BODY_TIME, body.collect()).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(e)) if e.is::<http_body_util::LengthLimitError>() => {
                return Err(Refusal::with_status(
                    413,
                    invalid(format!("the request's body is longer than {MAX_BODY} bytes")),
                ));
            }
            Ok(Err(e)) => return Err(invalid("the request's body broke off").caused_by(&*e).into()),
            Err(_) => {
                return Err(Refusal::with_status(408, invalid("the request's body did not arrive in time")));
            }
        };
        serde_json::from_slice(&bytes).map_err(|e| {
            invalid("the request's body cannot be read")
                .caused_by(&e)
                .hint("/openapi.json says what it must be")
                .into()
        })
    }
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new(FaultKind::Invalid, message)
}

fn find(method: &Method, path: &str) -> Result<(&'static Route, Vec<String>), Refusal> {
    let mut allowed = Vec::new();
    for route in ROUTES {
        if let Some(values) = matches(route.path, path) {
            if route.method == *method {
                let decoded = values.into_iter().map(decode).collect::<Result<_, _>>()?;
                return Ok((route, decoded));
            }
            allowed.push(route.method.as_str());
        }
    }
    if allowed.is_empty() {
        let path: String = path.chars().take(120).collect();
        return Err(Fault::new(FaultKind::NotFound, format!("the API has no {path}"))
            .hint("/openapi.json lists what there is")
            .into());
    }
    let allowed = allowed.join(", ");
    let fault =
        invalid(format!("{} is not possible here", method.as_str().chars().take(20).collect::<String>()))
            .hint(format!("possible: {allowed}"));
    Err(Refusal::with_status(405, fault).allow(allowed))
}

/// The values of `pattern`'s braces in `path`, if it has that form.
fn matches<'p>(pattern: &str, path: &'p str) -> Option<Vec<&'p str>> {
    let mut values = Vec::new();
    let (mut want, mut have) = (pattern.split('/'), path.split('/'));
    loop {
        match (want.next(), have.next()) {
            (None, None) => return Some(values),
            (Some(w), Some(h)) if w.starts_with('{') => {
                if h.is_empty() {
                    return None;
                }
                values.push(h);
            }
            (Some(w), Some(h)) if w == h => {}
            _ => return None,
        }
    }
}

fn decode(text: &str) -> Result<String, Fault> {
    unescape(text)
        .filter(|bytes| bytes.len() <= MAX_VALUE)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .filter(|value| !value.contains('\0'))
        .ok_or_else(|| invalid("a value in the request's address is too long or not %-encoded UTF-8"))
}

fn parse_query(text: &str, route: &Route) -> Result<Vec<(String, String)>, Fault> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for part in text.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        let key = decode(key)?;
        if !route.query.iter().any(|q| q.name == key) {
            let known: Vec<&str> = route.query.iter().map(|q| q.name).collect();
            let fault = invalid(format!("{key:?} is no parameter of {}", route.id));
            return Err(match known.is_empty() {
                true => fault.hint("it has none"),
                false => fault.hint(format!("it has {}", known.join(", "))),
            });
        }
        if pairs.iter().any(|(k, _)| *k == key) {
            return Err(invalid(format!("{key} is given twice")));
        }
        pairs.push((key, decode(value)?));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_matches_whole_names_only() {
        assert_eq!(matches("/v1/boxes/{name}", "/v1/boxes/web"), Some(vec!["web"]));
        assert_eq!(matches("/v1/boxes/{name}/stop", "/v1/boxes/web/stop"), Some(vec!["web"]));
        for other in ["/v1/boxes", "/v1/boxes/", "/v1/boxes/web/", "/v1/boxes/web/stop", "v1/boxes/web"] {
            assert_eq!(matches("/v1/boxes/{name}", other), None, "{other}");
        }
    }

    #[test]
    fn values_are_decoded_or_refused() {
        assert_eq!(decode("deb:g%2B%2B=1").unwrap(), "deb:g++=1");
        for bad in ["%", "%zz", "%ff", "%00", &"x".repeat(2000)] {
            assert!(decode(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wrong_method_says_which_are_possible() {
        let refusal = find(&Method::PUT, "/v1/boxes").err().unwrap();
        assert_eq!(refusal.into_response().headers()["allow"], "GET, POST");
    }
}
