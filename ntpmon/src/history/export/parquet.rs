//! Apache Parquet: columns with types, compressed, in groups of rows, of which one is in memory.

use std::{
    io::{self, Write},
    sync::Arc,
};

use parquet::{
    basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel},
    data_type::{ByteArray, ByteArrayType, DoubleType, Int32Type, Int64Type},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::{Type, TypePtr},
};

use super::{COLUMNS, Cell, Column, ExportError, Kind, row, write_versions};
use crate::history::{History, catalogue::Filter};

/// Rows in a group: enough to compress well, few enough to be held in memory.
const GROUP: usize = 50_000;

/// The values of a column that wait for their group to be full.
struct Waiting {
    values: Values,
    /// 1 for a value, 0 for none; for columns that may have none.
    levels: Option<Vec<i16>>,
}

enum Values {
    Text(Vec<ByteArray>),
    Short(Vec<i32>),
    Long(Vec<i64>),
    Float(Vec<f64>),
}

impl Waiting {
    const fn new(column: &Column) -> Self {
        let values = match column.kind {
            Kind::Text | Kind::Versions => Values::Text(Vec::new()),
            Kind::Whole { bits: 64, .. } | Kind::Time => Values::Long(Vec::new()),
            Kind::Whole { .. } => Values::Short(Vec::new()),
            Kind::Float => Values::Float(Vec::new()),
        };
        let levels = if column.nullable {
            Some(Vec::new())
        } else {
            None
        };
        Self { values, levels }
    }

    fn push(&mut self, cell: &Cell<'_>) {
        if let Some(levels) = &mut self.levels {
            levels.push(i16::from(!matches!(cell, Cell::Null)));
        }
        match (&mut self.values, cell) {
            (Values::Text(values), Cell::Text(text)) => values.push((*text).into()),
            (Values::Text(values), Cell::Made(text)) => values.push(text.as_str().into()),
            (Values::Text(values), Cell::Address(ip)) => {
                values.push(ip.to_string().into_bytes().into());
            }
            (Values::Text(values), Cell::Versions(versions)) => {
                let mut text = Vec::new();
                write_versions(&mut text, *versions, b' ');
                values.push(text.into());
            }
            (Values::Short(values), Cell::Signed(number)) => values.push((*number).into()),
            // Parquet keeps unsigned numbers in signed ones, bit by bit.
            (Values::Short(values), Cell::Unsigned(number)) => {
                values.push((*number as u32).cast_signed());
            }
            (Values::Long(values), Cell::Unsigned(number)) => values.push(number.cast_signed()),
            (Values::Long(values), Cell::Time(nanoseconds)) => values.push(*nanoseconds),
            (Values::Float(values), Cell::Float(number)) => values.push(*number),
            (_, cell) => debug_assert!(
                matches!(cell, Cell::Null) && self.levels.is_some(),
                "{cell:?} is in the wrong column"
            ),
        }
    }
}

/// The columns as Parquet has them.
fn schema() -> Result<TypePtr, ParquetError> {
    let fields = COLUMNS.iter().map(|column| {
        let (physical, logical) = match column.kind {
            Kind::Text | Kind::Versions => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Float => (Physical::DOUBLE, None),
            Kind::Time => (
                Physical::INT64,
                Some(LogicalType::timestamp(true, TimeUnit::NANOS)),
            ),
            Kind::Whole { bits, signed } => {
                let physical = match bits {
                    64 => Physical::INT64,
                    _ => Physical::INT32,
                };
                let logical = LogicalType::integer(bits.cast_signed(), signed);
                (physical, Some(logical))
            }
        };
        let repetition = if column.nullable {
            Repetition::OPTIONAL
        } else {
            Repetition::REQUIRED
        };
        Type::primitive_type_builder(column.name, physical)
            .with_logical_type(logical)
            .with_repetition(repetition)
            .build()
            .map(Arc::new)
    });
    let clients = Type::group_type_builder("clients")
        .with_fields(fields.collect::<Result<_, _>>()?)
        .build()?;
    Ok(Arc::new(clients))
}

/// A file that is being written.
struct File<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    waiting: [Waiting; COLUMNS.len()],
    rows: usize,
}

impl<W: Write + Send> File<W> {
    fn new(out: W) -> Result<Self, ParquetError> {
        let properties = WriterProperties::builder()
            .set_created_by(concat!("ntpmon version ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .build();
        Ok(Self {
            writer: SerializedFileWriter::new(out, schema()?, Arc::new(properties))?,
            waiting: COLUMNS.each_ref().map(Waiting::new),
            rows: 0,
        })
    }

    fn push(&mut self, row: &[Cell<'_>; COLUMNS.len()]) -> Result<(), ParquetError> {
        for (waiting, cell) in self.waiting.iter_mut().zip(row) {
            waiting.push(cell);
        }
        self.rows += 1;
        if self.rows == GROUP {
            self.end_group()?;
        }
        Ok(())
    }

    fn end_group(&mut self) -> Result<(), ParquetError> {
        self.rows = 0;
        let mut group = self.writer.next_row_group()?;
        for Waiting { values, levels } in &mut self.waiting {
            let Some(mut column) = group.next_column()? else {
                break;
            };
            let present = levels.as_deref();
            match values {
                Values::Text(them) => {
                    column
                        .typed::<ByteArrayType>()
                        .write_batch(them, present, None)?;
                    them.clear();
                }
                Values::Short(them) => {
                    column
                        .typed::<Int32Type>()
                        .write_batch(them, present, None)?;
                    them.clear();
                }
                Values::Long(them) => {
                    column
                        .typed::<Int64Type>()
                        .write_batch(them, present, None)?;
                    them.clear();
                }
                Values::Float(them) => {
                    column
                        .typed::<DoubleType>()
                        .write_batch(them, present, None)?;
                    them.clear();
                }
            }
            if let Some(levels) = levels {
                levels.clear();
            }
            column.close()?;
        }
        group.close()?;
        Ok(())
    }

    fn finish(mut self) -> Result<(), ParquetError> {
        if self.rows > 0 {
            self.end_group()?;
        }
        self.writer.close()?;
        Ok(())
    }
}

/// What failed is the writing; the crate wraps it.
fn writing(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

impl History {
    pub(super) fn export_parquet(
        &self,
        filter: &Filter,
        limit: u64,
        out: impl Write + Send,
    ) -> Result<u64, ExportError> {
        let mut file = File::new(out).map_err(writing)?;
        let count = self.export_rows(filter, limit, |rows| {
            rows.iter()
                .try_for_each(|(key, interface, record)| file.push(&row(key, interface, record)))
                .map_err(writing)
        })?;
        file.finish().map_err(writing)?;
        Ok(count)
    }
}
