//! Traces for OpenTelemetry: API request, command, and the way of an event to the shards.
//!
//! ```text
//!   POST /…          the caller's trace goes on, if it has sent a `traceparent`
//!    └─ emit         one per command, with its namespace
//!        └─ fan-out  until all shards have staged it, with the number of receivers
//! ```
//!
//! Without an endpoint no span is made at all. The exporter has a thread of its own.

use std::sync::OnceLock;

use axum::extract::{MatchedPath, Request};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing::field::Empty;
use tracing::{Instrument, Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

use super::config::units::Time;
use crate::Broadcast;

/// Traces for OpenTelemetry, as OTLP over HTTP with protobuf. Credentials for the collector come
/// from the usual variable, `OTEL_EXPORTER_OTLP_HEADERS`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where spans are sent to, such as `http://127.0.0.1:4318/v1/traces`. Default: nowhere; then
    /// none are made.
    pub endpoint: Option<String>,
    /// What the gateway is called there.
    pub service_name: String,
    /// Share of the requests that are traced, 0 to 1. Where a caller has decided, that counts.
    pub sample: f64,
    /// Time that the collector has to take spans; then they are lost.
    pub timeout: Time,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            endpoint: None,
            service_name: "corecast".into(),
            sample: 1.0,
            timeout: Time::secs(5),
        }
    }
}

/// Sends what is left when it is dropped.
#[derive(Default)]
pub(super) struct Guard(Option<SdkTracerProvider>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.0.take().map(|provider| provider.shutdown()) {
            tracing::warn!("the last spans were not sent: {error}");
        }
    }
}

/// What the spans of this file are called in filters; those of other crates are not exported.
const TARGET: &str = "corecast::trace";

/// Spans are made.
static IS_ON: OnceLock<()> = OnceLock::new();

type Export<S> = Option<Box<dyn Layer<S> + Send + Sync>>;

/// The layer that exports spans, where there is an endpoint. To be called outside of any runtime.
///
/// # Errors
/// The endpoint is no URL, or the share is none; the text begins with the key.
pub(super) fn start<S>(config: &Config) -> Result<(Export<S>, Guard), String>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    check(config)?;
    let Some(endpoint) = &config.endpoint else { return Ok((None, Guard::default())) };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_endpoint(endpoint)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(config.timeout.0)
        .build()
        .map_err(|error| format!("trace.endpoint: {error}"))?;
    let share = Sampler::TraceIdRatioBased(config.sample);
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(share)))
        .with_resource(Resource::builder().with_service_name(config.service_name.clone()).build())
        .build();
    let tracer = provider.tracer("corecast");
    let only = Targets::new().with_target(TARGET, Level::INFO);
    let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_filter(only);
    let _ = IS_ON.set(());
    Ok((Some(layer.boxed()), Guard(Some(provider))))
}

/// # Errors
/// As [`start`].
pub(super) fn check(config: &Config) -> Result<(), String> {
    if !(0.0..=1.0).contains(&config.sample) {
        return Err("trace.sample: a share between 0 and 1 is wanted".into());
    }
    let is_url = |endpoint: &String| {
        let url = reqwest::Url::parse(endpoint);
        url.is_ok_and(|url| matches!(url.scheme(), "http" | "https"))
    };
    match &config.endpoint {
        Some(endpoint) if !is_url(endpoint) => {
            Err("trace.endpoint: a URL such as http://127.0.0.1:4318/v1/traces is wanted".into())
        }
        _ => Ok(()),
    }
}

fn is_on() -> bool {
    IS_ON.get().is_some()
}

/// The headers of a request, where the propagator looks for the caller's trace.
struct Carried<'a>(&'a HeaderMap);

impl Extractor for Carried<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(|name| name.as_str()).collect()
    }
}

/// Makes a span of each request to the API.
pub(super) async fn request(request: Request, next: Next) -> Response {
    if !is_on() {
        return next.run(request).await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // Without ids, so that requests of a kind are found under one name.
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    let span = tracing::info_span!(
        target: TARGET,
        "request",
        otel.name = %format_args!("{method} {route}"),
        otel.kind = "server",
        http.route = route,
        http.request.method = %method,
        url.path = %path,
        http.response.status_code = Empty,
    );
    let caller = TraceContextPropagator::new().extract(&Carried(request.headers()));
    // Only a span that nobody exports cannot have a parent.
    let _ = span.set_parent(caller);
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    response
}

/// The span of one command.
pub(super) fn command(name: &'static str, namespace: &str) -> Span {
    if !is_on() {
        return Span::none();
    }
    tracing::info_span!(target: TARGET, "command", otel.name = name, corecast.namespace = namespace)
}

/// Whether the command in hand is traced. Costs a look at one flag where tracing is off.
pub(super) fn is_recorded() -> bool {
    is_on() && Span::current().context().span().span_context().is_sampled()
}

/// Follows an event that was just sent, where its command is traced: to the moment when all shards
/// have staged it, which they say by counting its receivers. `audience` is whom it was sent to.
pub(super) fn fan_out(audience: Broadcast, spawn: impl FnOnce(FanOut)) {
    let span = tracing::info_span!(
        target: TARGET,
        "fan-out",
        corecast.receivers = Empty,
        corecast.complete = Empty,
    );
    let count = audience.count_sockets();
    let recorded = span.clone();
    let counting = async move {
        if let Ok(counted) = count.await {
            recorded.record("corecast.receivers", counted.value as u64);
            recorded.record("corecast.complete", counted.is_complete);
        }
    };
    spawn(Box::pin(counting.instrument(span)));
}

/// Ends with the fan-out.
pub(super) type FanOut = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[cfg(test)]
mod tests {
    use tracing_subscriber::Registry;

    use super::*;

    #[test]
    fn what_cannot_be_an_endpoint_or_a_share_is_refused() {
        let with = |endpoint: &str, sample| Config {
            endpoint: Some(endpoint.into()),
            sample,
            ..Config::default()
        };
        assert!(check(&with("https://collector.example/v1/traces", 0.5)).is_ok());
        for endpoint in ["collector:4318", "ftp://a", ""] {
            let error = check(&with(endpoint, 1.0)).expect_err(endpoint);
            assert!(error.starts_with("trace.endpoint: "), "{error}");
        }
        let error = check(&with("http://a", f64::NAN)).expect_err("no share");
        assert!(error.starts_with("trace.sample: "), "{error}");
    }

    #[test]
    fn without_an_endpoint_there_is_no_layer() {
        let (layer, _guard) = start::<Registry>(&Config::default()).expect("nothing to go wrong");
        assert!(layer.is_none());
    }
}
