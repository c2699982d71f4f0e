//! What telemetry reads from the environment.

use tracing_subscriber::EnvFilter;

use crate::config::Vars;

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Human,
}

/// What telemetry needs to know. Where OTLP goes, its headers, limits and samplers are read by the exporters themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `LOG_FORMAT`: `json` (default) or `human`.
    pub format: LogFormat,
    /// `RUST_LOG`, for example `info,edge=debug`.
    pub filter: String,
    /// Spans are sent by OTLP.
    pub traces: bool,
    /// Metrics are sent by OTLP.
    pub metrics: bool,
}

impl Settings {
    /// Reads the settings.
    pub fn read(vars: &mut Vars) -> Self {
        let format = match vars.text("LOG_FORMAT").as_deref() {
            None | Some("json") => LogFormat::Json,
            Some("human") => LogFormat::Human,
            Some(_) => {
                vars.problem("LOG_FORMAT", "is neither json nor human");
                LogFormat::Json
            }
        };
        let filter = vars.text("RUST_LOG").unwrap_or_else(|| "info".to_owned());
        if EnvFilter::try_new(&filter).is_err() {
            vars.problem("RUST_LOG", "does not read as a filter such as info,edge=debug");
        }
        let is_disabled = vars
            .text("OTEL_SDK_DISABLED")
            .is_some_and(|disabled| disabled.eq_ignore_ascii_case("true"));
        let for_all = is_named(vars, "OTEL_EXPORTER_OTLP");
        let mut is_sent = |signal: &str| {
            let is_named = is_named(vars, &format!("OTEL_EXPORTER_OTLP_{signal}")) || for_all;
            is_wanted(vars, &format!("OTEL_{signal}_EXPORTER")) && is_named && !is_disabled
        };
        Self {
            format,
            filter,
            traces: is_sent("TRACES"),
            metrics: is_sent("METRICS"),
        }
    }
}

/// Whether variables of this beginning name an endpoint. Only gRPC is spoken.
fn is_named(vars: &mut Vars, prefix: &str) -> bool {
    let protocol = format!("{prefix}_PROTOCOL");
    if vars.text(&protocol).is_some_and(|protocol| protocol != "grpc") {
        vars.problem(&protocol, "is not grpc, the one protocol that is spoken");
    }
    let endpoint = format!("{prefix}_ENDPOINT");
    let Some(url) = vars.text(&endpoint) else { return false };
    let url = url.parse::<http::Uri>().ok();
    if !url.is_some_and(|url| matches!(url.scheme_str(), Some("http" | "https"))) {
        vars.problem(&endpoint, "does not read as a URL such as http://collector:4317");
    }
    true
}

fn is_wanted(vars: &mut Vars, exporter: &str) -> bool {
    match vars.text(exporter).as_deref() {
        None | Some("otlp") => true,
        Some("none") => false,
        Some(_) => {
            vars.problem(exporter, "is neither otlp nor none");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<(bool, bool), usize> {
        let mut vars: Vars = pairs.iter().copied().collect();
        let settings = Settings::read(&mut vars);
        vars.finish((settings.traces, settings.metrics))
            .map_err(|error| error.0.len())
    }

    #[test]
    fn the_standard_variables_say_what_is_sent() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        assert_eq!(read(&[]), Ok((false, false)));
        assert_eq!(read(&[all]), Ok((true, true)));
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://collector:4317");
        assert_eq!(read(&[traces]), Ok((true, false)));
        assert_eq!(read(&[all, ("OTEL_METRICS_EXPORTER", "none")]), Ok((true, false)));
        assert_eq!(read(&[all, ("OTEL_SDK_DISABLED", "TRUE")]), Ok((false, false)));
    }

    #[test]
    fn what_is_not_spoken_is_a_mistake() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
        assert_eq!(read(&[all, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")]), Err(1));
        assert_eq!(read(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "collector")]), Err(1));
        assert_eq!(read(&[all, ("OTEL_TRACES_EXPORTER", "zipkin")]), Err(1));
    }
}
