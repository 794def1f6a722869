//! A proxy in front of an emulator: writes down which IAM action every call needs, and refuses what it is told to.

use aurora_failover_custom_resources::permissions;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

#[derive(Default)]
struct Seen {
    actions: Mutex<BTreeSet<String>>,
    refused: Mutex<Option<String>>,
    /// The body of the last PublishLayerVersion.
    layer: Mutex<Option<Vec<u8>>>,
}

struct Proxy {
    to: String,
    http: reqwest::Client,
    seen: Arc<Seen>,
}

/// The proxy.
pub(crate) struct Recorder {
    pub(crate) url: String,
    seen: Arc<Seen>,
}

impl Recorder {
    pub(crate) async fn start(to: &str) -> Self {
        let seen = Arc::new(Seen::default());
        let proxy = Proxy { to: to.to_owned(), http: reqwest::Client::new(), seen: Arc::clone(&seen) };
        let app = Router::new().fallback(forward).with_state(Arc::new(proxy));
        let app = app.layer(axum::extract::DefaultBodyLimit::disable());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, seen }
    }

    /// Calls with this in method and path are refused from now on.
    pub(crate) fn refuse(&self, what: Option<&str>) {
        *self.seen.refused.lock().expect("no panic") = what.map(ToOwned::to_owned);
    }

    /// How often anything was called since the last time.
    pub(crate) fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.seen.actions.lock().expect("no panic"))
    }

    /// The body of the last PublishLayerVersion.
    pub(crate) fn layer(&self) -> Vec<u8> {
        self.seen.layer.lock().expect("no panic").clone().expect("a layer was published")
    }

    /// What was called is what the table of permissions says: nothing more, and nothing less.
    pub(crate) fn check(&self, resource_type: &str) {
        let granted = permissions(resource_type).iter().flat_map(|statement| statement.actions);
        let granted: BTreeSet<String> = granted.map(|action| (*action).to_owned()).collect();
        let seen = self.seen.actions.lock().expect("no panic").clone();
        assert_eq!(seen, granted, "called, and granted to {resource_type}");
    }
}

async fn forward(
    State(proxy): State<Arc<Proxy>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let actions = actions(&method, &uri, &headers, &body);
    if actions.contains(&"lambda:PublishLayerVersion".to_owned()) {
        *proxy.seen.layer.lock().expect("no panic") = Some(body.to_vec());
    }
    proxy.seen.actions.lock().expect("no panic").extend(actions);
    let refused = proxy.seen.refused.lock().expect("no panic").clone();
    if refused.is_some_and(|what| format!("{method} {path}").contains(&what)) {
        let text = "<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let mut request = proxy.http.request(method, format!("{}{path}", proxy.to)).body(body);
    for (name, value) in headers.iter().filter(|(name, _)| *name != "host" && *name != "content-length") {
        request = request.header(name, value);
    }
    let answer = request.send().await.expect("the emulator answers");
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove("transfer-encoding");
    headers.remove("connection");
    let body = answer.bytes().await.expect("a body");
    (status, headers, body).into_response()
}

/// The IAM actions that a call needs.
fn actions(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = text("authorization");
    let scope = authorization.split("Credential=").nth(1).unwrap_or_default();
    let service = scope.split('/').nth(3).unwrap_or_else(|| panic!("{method} {uri} is not signed"));
    assert!(authorization.contains("Signature="), "{method} {uri} is not signed");
    let body = String::from_utf8_lossy(body);
    let names: Vec<&str> = match service {
        "ec2" | "cloudformation" | "rds" => {
            let action = form_urlencoded::parse(body.as_bytes()).find(|(name, _)| name == "Action");
            return vec![format!("{service}:{}", action.expect("an Action").1)];
        }
        "secretsmanager" => vec![text("x-amz-target").split('.').next_back().expect("a target")],
        "route53" => match (method.as_str(), uri.path().contains("/rrset")) {
            ("GET", true) => vec!["ListResourceRecordSets"],
            ("GET", false) => vec!["GetHostedZone"],
            _ => vec!["ChangeResourceRecordSets"],
        },
        "lambda" => match method.as_str() {
            "GET" => vec!["ListLayerVersions"],
            "DELETE" => vec!["DeleteLayerVersion"],
            // Lambda reads the object with the rights of whoever calls.
            _ if body.contains("S3Bucket") => {
                return vec![format!("{service}:PublishLayerVersion"), "s3:GetObject".into()];
            }
            _ => vec!["PublishLayerVersion"],
        },
        "s3" => s3_actions(method, uri, &body),
        other => panic!("{method} {uri} is a call of {other}"),
    };
    names.into_iter().map(|name| format!("{service}:{name}")).collect()
}

fn s3_actions(method: &Method, uri: &Uri, body: &str) -> Vec<&'static str> {
    let query: Vec<&str> = uri.query().unwrap_or_default().split('&').collect();
    let has = |name: &str| query.iter().any(|part| part.split('=').next() == Some(name));
    match method.as_str() {
        "GET" if has("versions") => vec!["ListBucketVersions"],
        "GET" if has("uploads") => vec!["ListBucketMultipartUploads"],
        "GET" if has("list-type") => vec!["ListBucket"],
        "GET" => vec!["GetObject"],
        "PUT" => vec!["PutObject"],
        "DELETE" if has("uploadId") => vec!["AbortMultipartUpload"],
        "DELETE" => vec!["DeleteObject"],
        "POST" if has("delete") && body.contains("<VersionId>") => vec!["DeleteObject", "DeleteObjectVersion"],
        "POST" if has("delete") => vec!["DeleteObject"],
        _ => panic!("{method} {uri} is not known"),
    }
}
