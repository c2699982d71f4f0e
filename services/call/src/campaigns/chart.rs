//! A forecast as a picture: an SVG for pages, block characters for terminals.

use std::fmt::Write as _;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::forecast::{Forecast, Hour};

/// Columns of the SVG; a longer forecast has more hours in one.
const COLUMNS: usize = 168;
const WIDTH: f64 = 840.0;
const HEIGHT: f64 = 200.0;
/// Lines of the terminal's chart.
const LINES: u32 = 8;
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Some hours in a row.
struct Column {
    start: DateTime<Utc>,
    /// Calls in an hour, on average.
    calls: f64,
    slots: f64,
}

/// The hours from the first to the last, those without calls among them, in at most so many columns.
fn columns(hours: &[Hour], most: usize) -> Vec<Column> {
    let (Some(first), Some(last)) = (hours.first(), hours.last()) else {
        return Vec::new();
    };
    let all = (last.start - first.start).num_hours() + 1;
    let most = i64::try_from(most.max(1)).unwrap_or(1);
    let each = (all + most - 1) / most;
    let mut columns: Vec<_> = (0..(all + each - 1) / each)
        .map(|place| Column {
            start: first.start + TimeDelta::hours(place * each),
            calls: 0.0,
            slots: 0.0,
        })
        .collect();
    for hour in hours {
        let place = usize::try_from((hour.start - first.start).num_hours() / each).unwrap_or(0);
        if let Some(column) = columns.get_mut(place) {
            #[expect(clippy::cast_precision_loss, reason = "hours of at most a year")]
            let part = hour.calls / each as f64;
            column.calls += part;
            column.slots = column.slots.max(hour.slots);
        }
    }
    columns
}

fn most(columns: &[Column], of: impl Fn(&Column) -> f64) -> f64 {
    columns.iter().map(of).fold(0.0, f64::max)
}

/// Calls per hour as bars and the most slots in use as a line, with times of this zone.
pub fn svg(forecast: &Forecast, zone: Tz) -> String {
    let columns = columns(&forecast.hours, COLUMNS);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>Calls per hour</title>\n",
        HEIGHT + 40.0
    );
    let (calls, slots) = (
        most(&columns, |column| column.calls),
        most(&columns, |column| column.slots),
    );
    let mut line = String::new();
    #[expect(clippy::cast_precision_loss, reason = "at most 168 columns")]
    let width = WIDTH / columns.len().max(1) as f64;
    let mut x = 0.0;
    for column in &columns {
        let height = part(column.calls, calls) * HEIGHT;
        let top = 20.0 + HEIGHT - height;
        // Writing to a text cannot fail.
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"#4c8bf5\"><title>{}: {:.0} calls an hour, {:.0} slots</title></rect>",
            width * 0.9,
            local(column.start, zone),
            column.calls,
            column.slots
        );
        let _ = write!(
            line,
            "{:.1},{:.1} ",
            x + width / 2.0,
            20.0 + HEIGHT * (1.0 - part(column.slots, slots))
        );
        x += width;
    }
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"#d9730d\" stroke-width=\"1.5\"/>",
        line.trim_end()
    );
    let _ = writeln!(
        svg,
        "<text x=\"0\" y=\"14\">{calls:.0} calls an hour, {slots:.0} slots at most</text>"
    );
    if let (Some(first), Some(last)) = (columns.first(), columns.last()) {
        let y = HEIGHT + 36.0;
        let _ = writeln!(svg, "<text x=\"0\" y=\"{y}\">{}</text>", local(first.start, zone));
        let _ = writeln!(
            svg,
            "<text x=\"{WIDTH}\" y=\"{y}\" text-anchor=\"end\">{}</text>",
            local(last.start, zone)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Calls per hour in so many columns of a terminal, with times of this zone.
pub fn text(forecast: &Forecast, zone: Tz, width: usize) -> String {
    let columns = columns(&forecast.hours, width.saturating_sub(10).clamp(1, 1_000));
    let calls = most(&columns, |column| column.calls);
    let mut chart = String::new();
    for line in (0..LINES).rev() {
        let label = if line + 1 == LINES {
            format!("{calls:>8.0}")
        } else {
            " ".repeat(8)
        };
        let _ = write!(chart, "{label} │");
        for column in &columns {
            let eighths = part(column.calls, calls) * f64::from(LINES * 8) - f64::from(line * 8);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 8")]
            let block = eighths.ceil().clamp(0.0, 8.0) as usize;
            chart.push(BLOCKS[block]);
        }
        chart.truncate(chart.trim_end().len());
        chart.push('\n');
    }
    let _ = writeln!(chart, "{:>8} └{}", 0, "─".repeat(columns.len()));
    if let (Some(first), Some(last)) = (columns.first(), columns.last()) {
        let _ = writeln!(
            chart,
            "{:10}{} to {}, calls an hour",
            "",
            local(first.start, zone),
            local(last.start, zone)
        );
    }
    chart
}

fn part(value: f64, most: f64) -> f64 {
    if most > 0.0 { value / most } else { 0.0 }
}

fn local(at: DateTime<Utc>, zone: Tz) -> impl std::fmt::Display {
    at.with_timezone(&zone).format("%a %d %b %H:%M")
}

#[cfg(test)]
mod tests {
    use chrono_tz::Asia::Kolkata;

    use super::*;

    fn forecast(hours: &[(i64, f64)]) -> Forecast {
        let first: DateTime<Utc> = "2026-11-26T03:00:00Z".parse().unwrap();
        Forecast {
            hours: hours
                .iter()
                .map(|(hour, calls)| Hour {
                    start: first + TimeDelta::hours(*hour),
                    calls: *calls,
                    slots: calls / 60.0,
                })
                .collect(),
            ..Forecast::default()
        }
    }

    #[test]
    fn a_terminal_shows_hours_as_columns() {
        let chart = text(&forecast(&[(0, 1_800.0), (1, 3_600.0), (4, 450.0)]), Kolkata, 80);
        insta::assert_snapshot!(chart, @r"
        3600 │ █
             │ █
             │ █
             │ █
             │██
             │██
             │██
             │██  █
           0 └─────
              Thu 26 Nov 08:30 to Thu 26 Nov 12:30, calls an hour
        ");
    }

    #[test]
    fn an_svg_has_a_bar_for_each_hour() {
        let chart = svg(&forecast(&[(0, 1_800.0), (2, 3_600.0)]), Kolkata);
        insta::assert_snapshot!(chart, @r##"
        <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 840 240" font-family="sans-serif" font-size="12">
        <title>Calls per hour</title>
        <rect x="0.0" y="120.0" width="252.0" height="100.0" fill="#4c8bf5"><title>Thu 26 Nov 08:30: 1800 calls an hour, 30 slots</title></rect>
        <rect x="280.0" y="220.0" width="252.0" height="0.0" fill="#4c8bf5"><title>Thu 26 Nov 09:30: 0 calls an hour, 0 slots</title></rect>
        <rect x="560.0" y="20.0" width="252.0" height="200.0" fill="#4c8bf5"><title>Thu 26 Nov 10:30: 3600 calls an hour, 60 slots</title></rect>
        <polyline points="140.0,120.0 420.0,220.0 700.0,20.0" fill="none" stroke="#d9730d" stroke-width="1.5"/>
        <text x="0" y="14">3600 calls an hour, 60 slots at most</text>
        <text x="0" y="236">Thu 26 Nov 08:30</text>
        <text x="840" y="236" text-anchor="end">Thu 26 Nov 10:30</text>
        </svg>
        "##);
    }

    #[test]
    fn a_year_fits_and_nothing_is_no_chart() {
        let year: Vec<_> = (0..366 * 24).map(|hour| (hour, 60.0)).collect();
        let columns = columns(&forecast(&year).hours, COLUMNS);
        assert!(columns.len() <= COLUMNS);
        assert!(
            (columns.iter().map(|column| column.calls).sum::<f64>() / 60.0 - 166.0).abs() < 2.0,
            "{}",
            columns.len()
        );
        assert!(svg(&Forecast::default(), Kolkata).ends_with("</svg>\n"));
        assert!(text(&Forecast::default(), Kolkata, 0).lines().count() >= 9);
    }
}
