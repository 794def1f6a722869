//! Logs to standard error, and spans to an OpenTelemetry collector.

use clap::Args;
use std::io::IsTerminal as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

#[derive(Args)]
pub(super) struct Log {
    /// Log as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Send spans of turns and effects to this OpenTelemetry collector (OTLP over HTTP), such as
    /// http://127.0.0.1:4318.
    #[cfg(feature = "otlp")]
    #[arg(long, value_name = "URL", env = "OTEL_EXPORTER_OTLP_ENDPOINT")]
    otlp: Option<String>,
}

impl Log {
    /// From here on, as long as what it answers is kept.
    pub(super) fn start(&self) -> anyhow::Result<Exporting> {
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        let lines = if self.log_json {
            lines.json().with_filter(filter).boxed()
        } else {
            lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).with_filter(filter).boxed()
        };
        let subscriber = tracing_subscriber::registry().with(lines);
        #[cfg(feature = "otlp")]
        if let Some(url) = &self.otlp {
            let provider = otlp::provider(url)?;
            subscriber.with(otlp::layer(&provider)).init();
            return Ok(Exporting { _provider: Some(otlp::Provider(provider)) });
        }
        subscriber.init();
        Ok(Exporting::default())
    }
}

/// Sends what is left when it is dropped.
#[derive(Default)]
pub(super) struct Exporting {
    #[cfg(feature = "otlp")]
    _provider: Option<otlp::Provider>,
}

#[cfg(feature = "otlp")]
mod otlp {
    use anyhow::{Context as _, ensure};
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use std::time::Duration;
    use tracing::Subscriber;
    use tracing::level_filters::LevelFilter;
    use tracing_subscriber::Layer;
    use tracing_subscriber::filter::Targets;
    use tracing_subscriber::registry::LookupSpan;

    /// Longest time for one batch; spans are let go before anything waits for them.
    const TIMEOUT: Duration = Duration::from_secs(3);

    pub(super) struct Provider(pub(super) SdkTracerProvider);

    impl Drop for Provider {
        fn drop(&mut self) {
            if let Err(error) = self.0.shutdown_with_timeout(TIMEOUT) {
                eprintln!("warning: the last spans were not exported: {error}");
            }
        }
    }

    pub(super) fn provider(url: &str) -> anyhow::Result<SdkTracerProvider> {
        ensure!(
            url.starts_with("http://"),
            "--otlp {url} is not http://; run a collector beside this process, and let that one speak TLS"
        );
        let endpoint = format!("{}/v1/traces", url.trim_end_matches('/'));
        let exporter = SpanExporter::builder().with_http().with_endpoint(&endpoint).with_timeout(TIMEOUT).build();
        let exporter = exporter.with_context(|| format!("cannot export spans to {endpoint}; see --otlp"))?;
        let resource = Resource::builder().with_service_name("aurora-failover").build();
        Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
    }

    /// Our own spans; those of the exporter itself would never end.
    pub(super) fn layer<S>(provider: &SdkTracerProvider) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    {
        let ours = Targets::new().with_target("aurora_failover", LevelFilter::INFO);
        tracing_opentelemetry::layer().with_tracer(provider.tracer("aurora-failover")).with_filter(ours)
    }

    #[cfg(test)]
    mod tests {
        use axum::body::Bytes;
        use tracing_subscriber::layer::SubscriberExt as _;

        #[tokio::test]
        async fn spans_reach_a_collector_with_their_fields() {
            let (sender, mut received) = tokio::sync::mpsc::unbounded_channel::<Bytes>();
            let collect = move |body: Bytes| async move { sender.send(body).expect("the test waits") };
            let routes = axum::Router::new().route("/v1/traces", axum::routing::post(collect));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let url = format!("http://{}", listener.local_addr().expect("it is bound"));
            tokio::spawn(async move { axum::serve(listener, routes).await });
            let exported = tokio::task::spawn_blocking(move || {
                let provider = super::provider(&url).expect("the address is one");
                let subscriber = tracing_subscriber::registry().with(super::layer(&provider));
                tracing::subscriber::with_default(subscriber, || {
                    let _turn = tracing::info_span!(target: "aurora_failover", "turn", cluster = "orders").entered();
                    let _other = tracing::info_span!(target: "hyper", "connection").entered();
                });
                drop(super::Provider(provider));
            });
            let body = received.recv().await.expect("one batch");
            exported.await.expect("it ends");
            let has = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(has("turn") && has("cluster") && has("orders") && has("aurora-failover"));
            assert!(!has("connection"), "spans of libraries stay here");
        }
    }
}
