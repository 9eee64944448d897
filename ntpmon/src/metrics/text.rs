//! Metrics as text: the format of Prometheus, 0.0.4, and that of OpenMetrics, 1.0, whichever who
//! asks prefers.

use std::fmt::Write;

use super::model::{Buckets, Family, Kind, Sample, Samples, Value};

/// A way to write metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// That of Prometheus.
    Prometheus,
    /// That of OpenMetrics.
    OpenMetrics,
}

impl Format {
    /// What a client prefers by its `Accept` header. OpenMetrics has to be asked for by its name.
    #[must_use]
    pub fn preferred(accept: &str) -> Self {
        let (mut open, mut plain) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0_f32, None);
            for parameter in parts {
                match parameter.split_once('=') {
                    Some(("q", value)) => quality = value.trim().parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"')),
                    _ => {}
                }
            }
            match (media.as_str(), version) {
                // 0.0.1, which Prometheus asks for too, is no other for what is written here.
                ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => {
                    open = open.max(quality);
                }
                ("text/plain", None | Some("0.0.4")) => plain = plain.max(quality),
                _ => {}
            }
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The content type.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// What one collector told, written.
    #[must_use]
    pub fn part(self, samples: &Samples) -> String {
        // A line has some hundred bytes: a text that grows is moved over and over.
        let lines: usize = samples.families().map(|(_, samples)| samples.len()).sum();
        let mut out = String::with_capacity(1024 + 120 * lines);
        for (family, samples) in samples.families() {
            self.head(&mut out, family);
            for sample in samples {
                self.sample(&mut out, family, sample);
            }
        }
        out
    }

    /// What stands after all parts.
    #[must_use]
    pub const fn end(self) -> &'static str {
        match self {
            Self::OpenMetrics => "# EOF\n",
            Self::Prometheus => "",
        }
    }

    fn head(self, out: &mut String, family: &Family) {
        let (name, kind) = match (self, family.kind) {
            (Self::OpenMetrics, kind) => (family.base(), kind.name()),
            (Self::Prometheus, Kind::Info) => (family.name, Kind::Gauge.name()),
            (Self::Prometheus, kind) => (family.name, kind.name()),
        };
        let help = family.help.replace('\\', "\\\\").replace('\n', "\\n");
        let help = match self {
            Self::OpenMetrics => help.replace('"', "\\\""),
            Self::Prometheus => help,
        };
        // Writing to a string cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}");
        let _ = writeln!(out, "# TYPE {name} {kind}");
        if self == Self::OpenMetrics
            && let Some(unit) = family.unit()
        {
            let _ = writeln!(out, "# UNIT {name} {unit}");
        }
    }

    fn sample(self, out: &mut String, family: &Family, sample: &Sample) {
        match &sample.value {
            Value::Histogram(buckets) => self.histogram(out, family, sample, buckets),
            Value::Whole(number) => {
                line(out, family.name, "", family, sample, None);
                let _ = writeln!(out, "{number}");
            }
            Value::Real(number) => {
                line(out, family.name, "", family, sample, None);
                let _ = writeln!(out, "{number}");
            }
        }
        if self == Self::OpenMetrics
            && matches!(family.kind, Kind::Counter | Kind::Histogram)
            && let Some(since) = sample.since
        {
            line(out, family.base(), "_created", family, sample, None);
            let _ = writeln!(out, "{}", since.as_millisecond() as f64 / 1e3);
        }
    }

    fn histogram(self, out: &mut String, family: &Family, sample: &Sample, buckets: &Buckets) {
        let bounds = buckets.bounds.iter().map(|bound| canonical(*bound));
        let bounds = bounds.chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&buckets.counts) {
            line(out, family.name, "_bucket", family, sample, Some(&bound));
            let _ = writeln!(out, "{count}");
        }
        if let Some(sum) = buckets.sum {
            line(out, family.name, "_sum", family, sample, None);
            let _ = writeln!(out, "{sum}");
        }
        // OpenMetrics has it with a sum only.
        if buckets.sum.is_some() || self == Self::Prometheus {
            line(out, family.name, "_count", family, sample, None);
            let _ = writeln!(out, "{}", buckets.count());
        }
    }
}

/// A line up to its value.
fn line(
    out: &mut String,
    name: &str,
    end: &str,
    family: &Family,
    sample: &Sample,
    bound: Option<&str>,
) {
    out.push_str(name);
    out.push_str(end);
    let labels = family.labels.iter().copied();
    let labels = labels.zip(sample.labels.iter());
    let labels = labels.chain(bound.map(|bound| ("le", bound)));
    let mut before = '{';
    for (name, value) in labels {
        out.push(before);
        before = ',';
        out.push_str(name);
        out.push_str("=\"");
        let mut rest = value;
        while let Some(place) = rest.find(['\\', '"', '\n']) {
            let (plain, special) = rest.split_at(place);
            out.push_str(plain);
            out.push_str(match special.as_bytes()[0] {
                b'\\' => "\\\\",
                b'"' => "\\\"",
                _ => "\\n",
            });
            rest = &special[1..];
        }
        out.push_str(rest);
        out.push('"');
    }
    if before == ',' {
        out.push('}');
    }
    out.push(' ');
}

/// A bound as OpenMetrics wants it, the same in both formats: a series would be another one
/// otherwise.
fn canonical(bound: f64) -> String {
    let text = format!("{bound:?}");
    match text.split_once("e-") {
        Some((digits, power)) if power.len() == 1 => format!("{digits}e-0{power}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    static THINGS: Family = Family {
        name: "test_things_total",
        kind: Kind::Counter,
        labels: &["name"],
        help: "Things \"seen\",\nof \\ any kind",
    };
    static SIZE: Family = Family {
        name: "test_size_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "How large",
    };
    static BUILD: Family = Family {
        name: "test_build_info",
        kind: Kind::Info,
        labels: &["version"],
        help: "Which",
    };
    static TOOK: Family = Family {
        name: "test_took_seconds",
        kind: Kind::Histogram,
        labels: &["name"],
        help: "How long",
    };
    static ALL: &[&Family] = &[&THINGS, &SIZE, &BUILD, &TOOK];

    fn written(format: Format) -> String {
        let mut samples = Samples::of(ALL);
        let since = Timestamp::from_millisecond(1_700_000_000_250).unwrap();
        samples.put_since(&THINGS, &["a\"b\\c\nd"], 7_u64, Some(since));
        samples.put(&THINGS, &["é"], u64::MAX);
        samples.put(&SIZE, &[], 1.5);
        samples.put(&SIZE, &[], f64::NAN);
        samples.put_known(&SIZE, &[], None::<f64>);
        samples.put(&BUILD, &["1.0"], true);
        let bounds: &[f64] = &[-0.1, 0.00001, 1.0];
        let buckets = |sum| Buckets {
            bounds,
            counts: vec![0, 1, 3, 4],
            sum,
        };
        samples.put(&TOOK, &["signed"], buckets(None));
        samples.put(&TOOK, &["summed"], buckets(Some(12.0)));
        format.part(&samples) + format.end()
    }

    #[test]
    fn the_format_of_prometheus() {
        assert_eq!(
            written(Format::Prometheus),
            r#"# HELP test_things_total Things "seen",\nof \\ any kind
# TYPE test_things_total counter
test_things_total{name="a\"b\\c\nd"} 7
test_things_total{name="é"} 18446744073709551615
# HELP test_size_bytes How large
# TYPE test_size_bytes gauge
test_size_bytes 1.5
# HELP test_build_info Which
# TYPE test_build_info gauge
test_build_info{version="1.0"} 1
# HELP test_took_seconds How long
# TYPE test_took_seconds histogram
test_took_seconds_bucket{name="signed",le="-0.1"} 0
test_took_seconds_bucket{name="signed",le="1e-05"} 1
test_took_seconds_bucket{name="signed",le="1.0"} 3
test_took_seconds_bucket{name="signed",le="+Inf"} 4
test_took_seconds_count{name="signed"} 4
test_took_seconds_bucket{name="summed",le="-0.1"} 0
test_took_seconds_bucket{name="summed",le="1e-05"} 1
test_took_seconds_bucket{name="summed",le="1.0"} 3
test_took_seconds_bucket{name="summed",le="+Inf"} 4
test_took_seconds_sum{name="summed"} 12
test_took_seconds_count{name="summed"} 4
"#
        );
    }

    #[test]
    fn the_format_of_openmetrics() {
        assert_eq!(
            written(Format::OpenMetrics),
            r#"# HELP test_things Things \"seen\",\nof \\ any kind
# TYPE test_things counter
test_things_total{name="a\"b\\c\nd"} 7
test_things_created{name="a\"b\\c\nd"} 1700000000.25
test_things_total{name="é"} 18446744073709551615
# HELP test_size_bytes How large
# TYPE test_size_bytes gauge
# UNIT test_size_bytes bytes
test_size_bytes 1.5
# HELP test_build Which
# TYPE test_build info
test_build_info{version="1.0"} 1
# HELP test_took_seconds How long
# TYPE test_took_seconds histogram
# UNIT test_took_seconds seconds
test_took_seconds_bucket{name="signed",le="-0.1"} 0
test_took_seconds_bucket{name="signed",le="1e-05"} 1
test_took_seconds_bucket{name="signed",le="1.0"} 3
test_took_seconds_bucket{name="signed",le="+Inf"} 4
test_took_seconds_bucket{name="summed",le="-0.1"} 0
test_took_seconds_bucket{name="summed",le="1e-05"} 1
test_took_seconds_bucket{name="summed",le="1.0"} 3
test_took_seconds_bucket{name="summed",le="+Inf"} 4
test_took_seconds_sum{name="summed"} 12
test_took_seconds_count{name="summed"} 4
# EOF
"#
        );
    }

    #[test]
    fn openmetrics_is_for_who_prefers_it_by_name() {
        for accept in [
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0, text/plain;q=0.5",
            // Prometheus 2.42.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;\
             q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        ] {
            assert_eq!(Format::preferred(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text; version=2.0.0",
            "application/openmetrics-text;q=0.3,text/plain;version=0.0.4;q=0.5",
            "text/html,application/xhtml+xml,*/*;q=0.8",
        ] {
            assert_eq!(Format::preferred(accept), Format::Prometheus, "{accept}");
        }
    }
}
