//! Metrics as Prometheus reads them: the text format, and a small HTTP server for it. Does not know what is measured.

pub mod server;

use std::fmt::{Display, Write};

/// The media type of what [`Page`] writes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a metric's values do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// They rise; named `…_total`.
    Counter,
    /// They rise and fall.
    Gauge,
}

/// The labels of one value: names and values.
pub type Labels<'a> = Vec<(&'static str, &'a str)>;

/// A page of metrics in the text format, version 0.0.4.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// Writes one metric with all its values; nothing where there are none.
    ///
    /// `name` is a valid metric name and stands on a page once; no two of its values have the same labels.
    pub fn metric<'a, V: Display>(
        &mut self,
        name: &str,
        kind: Type,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, V)>,
    ) {
        let mut values = values.into_iter().peekable();
        if values.peek().is_none() {
            return;
        }
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
        };
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        for (labels, value) in values {
            let labels: Vec<_> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            match labels.is_empty() {
                true => self.line(format_args!("{name} {value}")),
                false => self.line(format_args!("{name}{{{}}} {value}", labels.join(","))),
            }
        }
    }

    /// The page's text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // Writing into a string does not fail.
        let _ = writeln!(self.0, "{line}");
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_each_metric_with_its_help_type_and_values() {
        let mut page = Page::default();
        let values = [(vec![("source", "a"), ("kind", "x\\\"\n")], 3), (vec![("source", "b")], 0)];
        page.metric("archiver_x_total", Type::Counter, "How many.", values);
        page.metric("archiver_up", Type::Gauge, "Whether.", [(Vec::new(), 0.5)]);
        page.metric::<i64>("archiver_none", Type::Gauge, "Nothing.", []);
        assert_eq!(
            page.into_text(),
            "# HELP archiver_x_total How many.\n# TYPE archiver_x_total counter\n\
             archiver_x_total{source=\"a\",kind=\"x\\\\\\\"\\n\"} 3\narchiver_x_total{source=\"b\"} 0\n\
             # HELP archiver_up Whether.\n# TYPE archiver_up gauge\narchiver_up 0.5\n"
        );
    }
}
