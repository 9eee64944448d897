//! What is written is what lists show, in every format.

use std::time::Duration;

use ::parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Field,
};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::{
    history::{
        Settings,
        made::{Ask, BEGIN, SECOND, address, ask, asks},
        session::Keep,
    },
    ntp::pair::Totals,
    pipeline::Sink,
};

/// A history of these exchanges; its interface's name has what CSV and JSON write otherwise.
pub(crate) fn remembering(asks: &[Ask]) -> (TempDir, History) {
    let directory = TempDir::new().unwrap();
    let settings = Settings {
        flush_interval: Duration::from_secs(3600),
        keep: Keep::Off,
        ..Settings::default()
    };
    let history = History::open(directory.path(), settings).unwrap();
    let mut feed = history.feed("eth\"0,\\");
    feed.publish(&Totals::default(), BEGIN);
    for ask in asks {
        feed.exchange(&ask.exchange());
    }
    drop(feed);
    history.flush().unwrap();
    (directory, history)
}

pub(crate) fn many(count: u32) -> Vec<Ask> {
    (0..count)
        .map(|client| {
            let one = ask(client, BEGIN + i64::from(client) * SECOND / 7);
            match client % 3 {
                0 => one.unanswered(),
                _ => one,
            }
        })
        .collect()
}

fn views(history: &History) -> Vec<Client> {
    let mut all = Vec::new();
    let take = |part| {
        all.extend(part);
        true
    };
    history
        .each_client(&Filter::default(), u64::MAX, take)
        .unwrap();
    all
}

fn exported(history: &History, format: Format, limit: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let count = history
        .export(&Filter::default(), limit, format, &mut out)
        .unwrap();
    let all = views(history).len() as u64;
    assert_eq!(count, limit.min(all));
    out
}

/// NDJSON is byte by byte what the view is in JSON: names, order, and how values are written.
fn assert_as_the_view(history: &History) {
    let lines = String::from_utf8(exported(history, Format::Ndjson, u64::MAX)).unwrap();
    let views = views(history);
    assert_eq!(lines.lines().count(), views.len());
    for (line, view) in lines.lines().zip(&views) {
        assert_eq!(line, serde_json::to_string(view).unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn rows_are_what_the_view_shows(asks in asks(40, 0..60)) {
        let (_directory, history) = remembering(&asks);
        assert_as_the_view(&history);
        assert_csv(&history);
        assert_parquet(&history);
    }
}

/// CSV has the view's values, nothing in place of null.
fn assert_csv(history: &History) {
    let bytes = exported(history, Format::Csv, u64::MAX);
    let mut of_views = csv_names().into_bytes();
    for view in views(history) {
        write_csv(&mut of_views, &view).unwrap();
    }
    assert!(of_views == bytes);
    let mut reader = csv::Reader::from_reader(&*bytes);
    let names: Vec<String> = reader
        .headers()
        .unwrap()
        .iter()
        .map(str::to_owned)
        .collect();
    let views = views(history);
    let mut count = 0;
    for (line, view) in reader.records().zip(&views) {
        let Value::Object(fields) = serde_json::to_value(view).unwrap() else {
            unreachable!()
        };
        let line = line.unwrap();
        assert_eq!(line.len(), fields.len());
        for (name, text) in names.iter().zip(line.iter()) {
            let expected = match &fields[name] {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                Value::Array(versions) => {
                    let texts: Vec<_> = versions.iter().map(Value::to_string).collect();
                    texts.join(" ")
                }
                value => value.to_string(),
            };
            assert_eq!(text, expected, "{name}");
        }
        count += 1;
    }
    assert_eq!(count, views.len());
}

/// Parquet has the view's values, in columns of the right types.
fn assert_parquet(history: &History) {
    let bytes = exported(history, Format::Parquet, u64::MAX);
    let reader = SerializedFileReader::new(axum::body::Bytes::from(bytes)).unwrap();
    let views = views(history);
    assert_eq!(
        reader.metadata().file_metadata().num_rows(),
        views.len() as i64
    );
    let rows = reader.get_row_iter(None).unwrap();
    let mut count = 0;
    for (row, view) in rows.zip(&views) {
        let Value::Object(fields) = serde_json::to_value(view).unwrap() else {
            unreachable!()
        };
        let row = row.unwrap();
        assert_eq!(row.len(), fields.len());
        for ((name, field), column) in row.get_column_iter().zip(COLUMNS) {
            assert_eq!(name, column.name);
            let expected = &fields[name];
            match field {
                Field::Null => assert!(expected.is_null() && column.nullable, "{name}"),
                Field::Str(text) => match expected {
                    Value::Array(versions) => {
                        let texts: Vec<_> = versions.iter().map(Value::to_string).collect();
                        assert_eq!(*text, texts.join(" "));
                    }
                    expected => assert_eq!(expected, text, "{name}"),
                },
                Field::Byte(number) => assert_eq!(expected, number, "{name}"),
                Field::UByte(number) => assert_eq!(expected, number, "{name}"),
                Field::UShort(number) => assert_eq!(expected, number, "{name}"),
                Field::UInt(number) => assert_eq!(expected, number, "{name}"),
                Field::ULong(number) => assert_eq!(expected, number, "{name}"),
                Field::Double(number) => assert_eq!(expected, number, "{name}"),
                Field::Long(nanoseconds) => {
                    assert_eq!(column.kind, Kind::Time, "{name}");
                    assert_eq!(*expected, time(*nanoseconds).to_string(), "{name}");
                }
                other => panic!("{name} is {other:?}"),
            }
        }
        count += 1;
    }
    assert_eq!(count, views.len());
}

#[test]
fn every_format_holds_none_one_and_many() {
    for clients in [0, 1, 5000] {
        let (_directory, history) = remembering(&many(clients));
        assert_as_the_view(&history);
        assert_csv(&history);
        assert_parquet(&history);
        let json = String::from_utf8(exported(&history, Format::Json, u64::MAX)).unwrap();
        let views: Vec<_> = views(&history)
            .iter()
            .map(|view| serde_json::to_string(view).unwrap())
            .collect();
        let expected = format!(
            "{{\"success\":true,\"data\":[{}],\"count\":{clients}}}",
            views.join(",")
        );
        assert!(json == expected, "{clients} clients");
    }
}

#[test]
fn a_limit_and_a_filter_hold_in_every_format() {
    let (_directory, history) = remembering(&many(5000));
    for limit in [1, 1999, 2000, 2001] {
        let lines = String::from_utf8(exported(&history, Format::Csv, limit)).unwrap();
        assert_eq!(lines.lines().count() as u64, limit + 1);
    }
    let few = Filter {
        addresses: Some(vec![address(7)..=address(8), address(4990)..=address(6000)]),
        ..Filter::default()
    };
    for format in Format::EACH {
        let mut out = Vec::new();
        assert_eq!(
            history.export(&few, u64::MAX, format, &mut out).unwrap(),
            12
        );
        assert_eq!(history.export(&few, 3, format, &mut out).unwrap(), 3);
    }
}

#[test]
fn csv_begins_with_these_names() {
    let (_directory, history) = remembering(&[]);
    let text = String::from_utf8(exported(&history, Format::Csv, u64::MAX)).unwrap();
    assert_eq!(
        text,
        "client_ip,client_port,server_ip,server_port,interface_name,ntp_version,stratum,precision,\
         root_delay,root_dispersion,reference_id,leap_indicator,poll_interval,reference_timestamp,\
         originate_timestamp,receive_timestamp,transmit_timestamp,client_to_server_latency_seconds,\
         server_processing_time_seconds,total_process_time_seconds,packet_length,session_timestamp,\
         first_seen_timestamp,last_seen_timestamp,session_count,created_at,updated_at,requests,\
         unanswered,duplicates,kiss_of_death,request_rate_per_second,versions_seen,client_clock,\
         client_clock_error_seconds,client_clock_error_bound_seconds,client_clock_drift_ppm,role,client_to_server_latency_min_seconds,\
         client_to_server_latency_median_seconds,client_to_server_latency_p99_seconds,\
         server_processing_time_min_seconds,server_processing_time_median_seconds,\
         server_processing_time_p99_seconds,total_process_time_min_seconds,\
         total_process_time_median_seconds,total_process_time_p99_seconds\n"
    );
}

#[test]
fn what_is_not_taken_ends_the_export_in_every_format() {
    /// Takes so many bytes.
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (_directory, history) = remembering(&many(5000));
    for format in Format::EACH {
        let error = history
            .export(&Filter::default(), u64::MAX, format, Full(10_000))
            .unwrap_err();
        assert!(
            matches!(&error, ExportError::Write(error) if error.kind() == io::ErrorKind::StorageFull),
            "{format:?}: {error:?}"
        );
    }
}
