//! `Custom::PythonLayer`: packages of the real index, and of one made here; Lambda of moto.

use crate::support::{Function, Recorder, aws, with};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use std::io::{Cursor, Read as _, Write as _};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::process::Command;
use zip::write::SimpleFileOptions;

const PYTHON_LAYER: &str = "Custom::PythonLayer";

/// The index that pip would use here.
async fn index() -> String {
    if let Ok(index) = std::env::var("PIP_INDEX_URL") {
        return index;
    }
    let tools = std::env::var("AURORA_FAILOVER_TOOLS").expect("AURORA_FAILOVER_TOOLS is not set: run scripts/test");
    let configured =
        Command::new(format!("{tools}/bin/pip")).args(["config", "get", "global.index-url"]).output().await;
    let configured = configured.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    configured.ok().filter(|index| index.starts_with("http")).unwrap_or_else(|| "https://pypi.org/simple".into())
}

/// Files of the layer that was published last, and the request.
fn published(recorder: &Recorder) -> (Value, BTreeMap<String, Vec<u8>>) {
    let request: Value = serde_json::from_slice(&recorder.layer()).expect("JSON");
    let zip = STANDARD.decode(request["Content"]["ZipFile"].as_str().expect("a zip")).expect("base64");
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).expect("a zip");
    let mut files = BTreeMap::new();
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).expect("an entry");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        files.insert(entry.name().expect("a name").into_owned(), content);
    }
    (request, files)
}

/// Versions that Lambda has.
async fn versions(url: &str, layer: &str) -> usize {
    let answer = reqwest::Client::new()
        .get(format!("{url}/2018-10-31/layers/{layer}/versions"))
        .header("authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-west-2/lambda/aws4_request")
        .send();
    let answer: Value =
        serde_json::from_str(&answer.await.expect("an answer").text().await.expect("text")).expect("JSON");
    answer["LayerVersions"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_layer_of_real_packages_and_own_files_is_published_replaced_and_deleted() {
    let emulator = aws::moto().await;
    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    let properties = json!({
        "LayerName": "real", "PythonVersion": "3.13", "Architecture": "arm64", "IndexUrl": index().await,
        "Packages": ["python-dateutil==2.9.0.post0", "MarkupSafe>=2,<4", "colorama; sys_platform == 'win32'"],
        "Files": { "own/__init__.py": "answer = 42\n" },
    });
    let created = function.create(PYTHON_LAYER, &properties).await.succeeded();
    let (request, files) = published(&recorder);
    assert_eq!(request["CompatibleRuntimes"], json!(["python3.13"]));
    assert_eq!(request["CompatibleArchitectures"], json!(["arm64"]));
    for path in ["python/six.py", "python/dateutil/parser/_parser.py", "python/markupsafe/__init__.py"] {
        assert!(files.contains_key(path), "{path} is not in {:?}", files.keys());
    }
    assert_eq!(files["python/own/__init__.py"], b"answer = 42\n");
    assert!(files.keys().all(|path| path.starts_with("python/") && !path.contains("colorama")));
    let native = files.keys().find(|path| path.ends_with(".so")).expect("native code");
    assert!(native.contains("cpython-313-aarch64-linux-gnu"), "{native}");
    assert_eq!(&files[native][..5], b"\x7fELF\x02");
    assert_eq!(files[native][0x12], 0xb7, "AArch64");

    let again = function.create(PYTHON_LAYER, &properties).await.succeeded();
    assert_eq!(again.data("LayerVersionArn"), created.data("LayerVersionArn"));
    assert_eq!(versions(emulator, "real").await, 1);

    let changed = with(&properties, "Files", json!({ "own/__init__.py": "answer = 43\n" }));
    let replaced = function.update(PYTHON_LAYER, &created.id(), &properties, &changed).await.succeeded();
    assert_ne!(replaced.id(), created.id());
    assert_ne!(replaced.data("LayerVersionArn"), created.data("LayerVersionArn"));
    assert_eq!(versions(emulator, "real").await, 2, "the old one is in use until CloudFormation deletes it");
    function.delete(PYTHON_LAYER, &created.id(), &properties).await.succeeded();
    assert_eq!(versions(emulator, "real").await, 1);
    function.delete(PYTHON_LAYER, &replaced.id(), &changed).await.succeeded();
    assert_eq!(versions(emulator, "real").await, 0);
    function.delete(PYTHON_LAYER, &replaced.id(), &changed).await.succeeded();
}

#[tokio::test]
async fn a_layer_goes_to_lambda_by_way_of_a_bucket_and_nothing_is_left_there() {
    let emulator = aws::moto().await;
    let s3 = aws::s3(emulator).await;
    aws::bucket(&s3, "on-the-way").await;
    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    let properties = json!({
        "LayerName": "by-bucket", "PythonVersion": "3.13", "Architecture": "x86_64", "Bucket": "on-the-way",
        "Files": { "own.py": "" },
    });
    let created = function.create(PYTHON_LAYER, &properties).await.succeeded();
    assert!(created.data("LayerVersionArn").contains(":layer:by-bucket:"));
    let request: Value = serde_json::from_slice(&recorder.layer()).expect("JSON");
    assert_eq!(request["Content"]["S3Bucket"], "on-the-way");
    assert!(aws::keys(&s3, "on-the-way").await.is_empty());
    function.delete(PYTHON_LAYER, &created.id(), &properties).await.succeeded();
    recorder.check(PYTHON_LAYER);
}

/// An index with these wheels: name, version, and requirements.
async fn own_index(packages: &[(&str, &str, &[&str])]) -> String {
    let wheel = |name: &str, version: &str, requires: &[&str]| {
        let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
        let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
        requires.iter().for_each(|requirement| metadata.push_str(&format!("Requires-Dist: {requirement}\n")));
        for (path, content) in [
            (format!("{name}/__init__.py"), format!("version = '{version}'\n")),
            (format!("{name}-{version}.dist-info/METADATA"), metadata),
        ] {
            writer.start_file(path, SimpleFileOptions::default()).expect("a file");
            writer.write_all(content.as_bytes()).expect("written");
        }
        writer.finish().expect("a wheel").into_inner()
    };
    let wheels = packages.iter().map(|(name, version, requires)| {
        (format!("{name}-{version}-py3-none-any.whl"), wheel(name, version, requires))
    });
    let wheels: Arc<BTreeMap<String, Vec<u8>>> = Arc::new(wheels.collect());
    let app = Router::new().route("/simple/{name}/", get(page)).route("/files/{name}", get(file)).with_state(wheels);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/simple", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

type Wheels = Arc<BTreeMap<String, Vec<u8>>>;

async fn page(State(wheels): State<Wheels>, Path(name): Path<String>) -> Response {
    let of_package = wheels.iter().filter(|(file, _)| file.starts_with(&format!("{name}-")));
    let links: String = of_package
        .map(|(file, bytes)| {
            // The index is wrong about this one.
            let hash = if name == "spoiled" { "0".repeat(64) } else { hex::encode(Sha256::digest(bytes)) };
            format!("<a href=\"../../files/{file}#sha256={hash}\">{file}</a><br>")
        })
        .collect();
    if links.is_empty() { StatusCode::NOT_FOUND.into_response() } else { Html(links).into_response() }
}

async fn file(State(wheels): State<Wheels>, Path(name): Path<String>) -> Vec<u8> {
    wheels[&name].clone()
}

#[tokio::test]
async fn requirements_are_settled_or_the_error_names_both_sides() {
    let index = own_index(&[
        ("app", "1.0", &["tool>=1", "middle"]),
        ("middle", "1.0", &["tool<2; python_version >= '3.8'", "never; extra == 'more'"]),
        ("tool", "1.5", &["tiny"]),
        ("tool", "2.0", &[]),
        ("tiny", "1.0", &[]),
        ("never", "1.0", &[]),
        ("rival", "1.0", &["tool>=2"]),
        ("spoiled", "1.0", &[]),
        ("source", "1.0", &["not_there"]),
    ])
    .await;
    let emulator = aws::moto().await;
    let recorder = Recorder::start(emulator).await;
    let mut function = Function::start(&recorder.url).await;
    let of = |packages: Value| {
        json!({
            "LayerName": "own", "PythonVersion": "3.12", "Architecture": "x86_64", "IndexUrl": index,
            "Packages": packages,
        })
    };
    // 2.0 of tool is chosen first, and given up for what middle says; 1.5 needs one more package.
    let created = function.create(PYTHON_LAYER, &of(json!(["app"]))).await.succeeded();
    let (_, files) = published(&recorder);
    assert_eq!(files["python/tool/__init__.py"], b"version = '1.5'\n");
    assert!(files.contains_key("python/tiny/__init__.py") && !files.contains_key("python/never/__init__.py"));
    function.delete(PYTHON_LAYER, &created.id(), &of(json!(["app"]))).await.succeeded();

    function.create(PYTHON_LAYER, &of(json!(["middle[more]"]))).await.succeeded();
    assert!(published(&recorder).1.contains_key("python/never/__init__.py"));
    let conflict = function.create(PYTHON_LAYER, &of(json!(["app", "rival"]))).await.failed("pin");
    for part in ["tool", "<2 (middle 1.0)", ">=2 (rival 1.0)"] {
        conflict.clone().failed(part);
    }
    function.create(PYTHON_LAYER, &of(json!(["spoiled"]))).await.failed("checksum");
    function.create(PYTHON_LAYER, &of(json!(["source"]))).await.failed("not-there, which source 1.0 asks for");
    function.create(PYTHON_LAYER, &of(json!(["tool @ https://example.com/tool.whl"]))).await.failed("by URL");
    function.create(PYTHON_LAYER, &of(json!(["tool =="]))).await.failed("of Packages");
    function.create(PYTHON_LAYER, &of(json!(["tool>2"]))).await.failed("fits all that is required");
    let clash = with(&of(json!(["tool"])), "Files", json!({ "tool/__init__.py": "" }));
    function.create(PYTHON_LAYER, &clash).await.failed("is in a package too");
    for path in ["../up.py", "/abs.py", "a//b"] {
        let outside = with(&of(json!([])), "Files", json!({ path: "" }));
        function.create(PYTHON_LAYER, &outside).await.failed("no path below python/");
    }
    function.create(PYTHON_LAYER, &with(&of(json!(["tool"])), "PythonVersion", "2.7")).await.failed("PythonVersion");
}
