//! `Custom::EmptyBucket` and `Custom::DeployCode` against S3 of moto.

use crate::support::{Function, Recorder, aws, with};
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use axum::Router;
use axum::routing::get;
use futures::{StreamExt as _, stream};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::io::{Cursor, Write as _};
use tokio::net::TcpListener;
use zip::write::SimpleFileOptions;

const EMPTY_BUCKET: &str = "Custom::EmptyBucket";
const DEPLOY_CODE: &str = "Custom::DeployCode";

#[tokio::test]
async fn a_bucket_with_more_than_a_page_of_versions_is_emptied_at_its_deletion_only() {
    let s3 = aws::s3(aws::moto().await).await;
    aws::bucket(&s3, "full").await;
    let versioned = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    s3.put_bucket_versioning().bucket("full").versioning_configuration(versioned).send().await.expect("versioned");
    let put = |number: usize| {
        let s3 = s3.clone();
        async move { s3.put_object().bucket("full").key(format!("k/{}", number % 900)).send().await.expect("put") }
    };
    stream::iter(0..1_100).map(put).buffer_unordered(16).collect::<Vec<_>>().await;
    s3.delete_object().bucket("full").key("k/1").send().await.expect("a delete marker");
    s3.create_multipart_upload().bucket("full").key("big").send().await.expect("an upload");

    let recorder = Recorder::start(aws::moto().await).await;
    let mut function = Function::start(&recorder.url).await;
    let properties = json!({ "Bucket": "full" });
    let created = function.create(EMPTY_BUCKET, &properties).await.succeeded();
    function.update(EMPTY_BUCKET, &created.id(), &properties, &properties).await.succeeded();
    assert_eq!(aws::keys(&s3, "full").await.len(), 899);
    assert!(recorder.take().is_empty(), "only a Delete does anything");

    recorder.refuse(Some("POST /full"));
    function.delete(EMPTY_BUCKET, &created.id(), &properties).await.failed("AccessDenied");
    recorder.refuse(None);
    function.delete(EMPTY_BUCKET, &created.id(), &properties).await.succeeded();
    let left = s3.list_object_versions().bucket("full").send().await.expect("a list");
    assert!(left.versions().is_empty() && left.delete_markers().is_empty());
    let uploads = s3.list_multipart_uploads().bucket("full").send().await.expect("a list");
    assert!(uploads.uploads().is_empty());
    recorder.check(EMPTY_BUCKET);

    function.delete(EMPTY_BUCKET, &created.id(), &properties).await.succeeded();
    s3.delete_bucket().bucket("full").send().await.expect("it is empty");
    function.delete(EMPTY_BUCKET, &created.id(), &properties).await.succeeded();
}

fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in files {
        writer.start_file(*name, SimpleFileOptions::default()).expect("a file");
        writer.write_all(content.as_bytes()).expect("written");
    }
    writer.finish().expect("an archive").into_inner()
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[tokio::test]
async fn code_is_deployed_updated_moved_and_taken_away() {
    let s3 = aws::s3(aws::moto().await).await;
    aws::bucket(&s3, "site").await;
    s3.put_object().bucket("site").key("web/of-others.txt").send().await.expect("put");
    let first = archive(&[("index.html", "<p>1"), ("assets/app.js", "1"), ("assets/old.css", "")]);
    let second = archive(&[("index.html", "<p>2"), ("assets/app.js", "2")]);
    let app = Router::new()
        .route(
            "/v1.zip",
            get({
                let first = first.clone();
                move || async move { first }
            }),
        )
        .route(
            "/v2.zip",
            get({
                let second = second.clone();
                move || async move { second }
            }),
        )
        .route("/page.txt", get(|| async { "alone" }));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let source = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });

    let recorder = Recorder::start(aws::moto().await).await;
    let mut function = Function::start(&recorder.url).await;
    let one = json!({
        "SourceUrl": format!("{source}/v1.zip?token=hush-token"), "Sha256": sha256(&first).to_uppercase(),
        "Bucket": "site", "Prefix": "web",
    });
    let wrong = with(&one, "Sha256", "0".repeat(64));
    let failed = function.create(DEPLOY_CODE, &wrong).await.failed("has the checksum");
    assert_eq!(aws::keys(&s3, "site").await, ["web/of-others.txt"], "nothing unchecked is deployed");
    function.delete(DEPLOY_CODE, &failed.id(), &wrong).await.succeeded();
    let missing = with(&one, "SourceUrl", format!("{source}/none.zip?token=hush-token"));
    function.create(DEPLOY_CODE, &missing).await.failed("404");
    function.create(DEPLOY_CODE, &with(&one, "SourceUrl", "http://example.com/a.zip")).await.failed("https");
    assert!(!function.log().contains("hush-token"));

    let created = function.create(DEPLOY_CODE, &one).await.succeeded();
    assert_eq!((created.data("Files"), created.data("Sha256")), ("3".into(), sha256(&first)));
    let object = s3.get_object().bucket("site").key("web/index.html").send().await.expect("it is there");
    assert_eq!(object.content_type(), Some("text/html; charset=utf-8"));
    let script = s3.head_object().bucket("site").key("web/assets/app.js").send().await.expect("it is there");
    assert_eq!(script.content_type(), Some("text/javascript; charset=utf-8"));

    let two = with(&with(&one, "SourceUrl", format!("{source}/v2.zip")), "Sha256", sha256(&second));
    let updated = function.update(DEPLOY_CODE, &created.id(), &one, &two).await.succeeded();
    assert_eq!(updated.id(), created.id());
    let files = |keys: Vec<String>| keys.into_iter().filter(|key| !key.contains(".deployed/")).collect::<Vec<_>>();
    let of_two = ["web/assets/app.js", "web/index.html", "web/of-others.txt"];
    assert_eq!(files(aws::keys(&s3, "site").await), of_two);
    recorder.check(DEPLOY_CODE);

    // A replacement that fails on its way: the stack goes back, and nothing of it is left.
    let moved = with(&two, "Prefix", "new/");
    recorder.refuse(Some("PUT /site/new/index.html"));
    let failed = function.update(DEPLOY_CODE, &created.id(), &two, &moved).await.failed("AccessDenied");
    recorder.refuse(None);
    assert_eq!(failed.id(), created.id());
    assert!(aws::keys(&s3, "site").await.iter().any(|key| key.starts_with("new/")), "some of it was there");
    let back = function.update(DEPLOY_CODE, &created.id(), &moved, &two).await.succeeded();
    assert_eq!(back.id(), created.id());
    assert_eq!(files(aws::keys(&s3, "site").await), of_two);
    assert!(aws::keys(&s3, "site").await.iter().all(|key| !key.starts_with("new/")));

    let replaced = function.update(DEPLOY_CODE, &created.id(), &two, &moved).await.succeeded();
    assert_ne!(replaced.id(), created.id());
    function.delete(DEPLOY_CODE, &created.id(), &two).await.succeeded();
    assert_eq!(files(aws::keys(&s3, "site").await), ["new/assets/app.js", "new/index.html", "web/of-others.txt"]);
    let alone = json!({
        "SourceUrl": format!("{source}/page.txt"), "Sha256": sha256(b"alone"), "Bucket": "site", "Prefix": "new",
    });
    function.update(DEPLOY_CODE, &replaced.id(), &moved, &alone).await.succeeded();
    assert_eq!(files(aws::keys(&s3, "site").await), ["new/page.txt", "web/of-others.txt"]);

    function.delete(DEPLOY_CODE, &replaced.id(), &alone).await.succeeded();
    assert_eq!(aws::keys(&s3, "site").await, ["web/of-others.txt"], "what others put stays");
    function.delete(DEPLOY_CODE, &replaced.id(), &alone).await.succeeded();
    function.delete(DEPLOY_CODE, &replaced.id(), &with(&alone, "Bucket", "no-such-bucket")).await.succeeded();
}
