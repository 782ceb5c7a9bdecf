use std::collections::BTreeSet;

use super::*;

/// The names are a contract: dashboards and alerts are made of them. Whoever changes one breaks somebody's, and says so here,
/// in docs/metrics.md and in the change log.
#[test]
fn names_kinds_and_labels_are_those_that_were_published() {
    let lines: Vec<String> = FAMILIES.iter().map(line).collect();
    let names: BTreeSet<&str> = FAMILIES.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), FAMILIES.len(), "each once");
    assert_eq!(lines.join("\n") + "\n", include_str!("published.txt"));
}

fn line(family: &Family) -> String {
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let suffix = match family.kind {
        Kind::Counter => "_total",
        _ => "",
    };
    let labels = family.labels.join(",");
    format!(
        "{}{suffix} {kind} {{{labels}}} {}",
        family.name, family.otel
    )
    .trim_end()
    .to_owned()
}

#[test]
fn the_documentation_names_all_of_them_and_no_others() {
    let text = include_str!("../../docs/metrics.md");
    let rows = text.lines().filter_map(|row| row.strip_prefix("| `"));
    let told: Vec<(&str, String)> = rows
        .filter(|row| row.starts_with("aether_") || row.starts_with("process_"))
        .map(|row| {
            let mut cells = row.split(" | ").map(str::trim);
            let name = cells.next().unwrap_or_default().trim_matches('`');
            let labels = cells.nth(1).unwrap_or_default().replace(['`', ' '], "");
            (name, labels)
        })
        .collect();
    let known: Vec<(String, String)> = FAMILIES
        .iter()
        .map(|family| {
            let line = line(family);
            let name = line.split(' ').next().unwrap_or_default().to_owned();
            (name, family.labels.join(","))
        })
        .collect();
    let known: Vec<(&str, String)> = known
        .iter()
        .map(|(name, labels)| (name.as_str(), labels.clone()))
        .collect();
    assert_eq!(told, known);
    for family in FAMILIES {
        assert!(
            text.contains(family.help),
            "{}: {}",
            family.name,
            family.help
        );
        assert!(
            text.contains(family.otel),
            "{}: {}",
            family.name,
            family.otel
        );
    }
}

/// Whatever the dashboard and the alerts ask for is there, under that name and with those labels.
#[test]
fn the_dashboard_and_the_alerts_know_only_what_there_is() {
    let mut series = BTreeSet::new();
    for family in FAMILIES {
        let suffixes: &[&str] = match family.kind {
            Kind::Counter => &["_total"],
            Kind::Gauge => &[""],
            Kind::Histogram => &["_bucket", "_sum", "_count"],
        };
        series.extend(
            suffixes
                .iter()
                .map(|suffix| format!("{}{suffix}", family.name)),
        );
    }
    let labels: BTreeSet<&str> = FAMILIES
        .iter()
        .flat_map(|family| family.labels.iter().copied())
        .chain(["job", "instance", "le", "severity"])
        .collect();
    for (file, text) in [
        (
            "aether.json",
            include_str!("../../packaging/grafana/aether.json"),
        ),
        (
            "alerts.yml",
            include_str!("../../packaging/prometheus/alerts.yml"),
        ),
    ] {
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text.split(|c| !word(c));
        let of_ours = |of: &&str| of.starts_with("aether_") || of.starts_with("process_");
        let named: BTreeSet<&str> = words.filter(of_ours).collect();
        assert!(named.len() > 10, "{file}: {named:?}");
        for name in named {
            assert!(series.contains(name), "{file}: there is no {name}");
        }
        for (at, _) in text.match_indices(" by (") {
            let list = text[at + 5..].split(')').next().unwrap_or_default();
            for label in list.split(',') {
                assert!(labels.contains(label.trim()), "{file}: {label} in {list}");
            }
        }
    }
}

/// Prometheus' and OpenMetrics' rules for names and units.
#[test]
fn names_follow_the_conventions() {
    for family in FAMILIES {
        let name = family.name;
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(name.chars().all(is_good), "{name}");
        let ours = name.starts_with("aether_") || name.starts_with("process_");
        assert!(
            ours && !name.ends_with("_total") && !name.ends_with("_count"),
            "{name}"
        );
        match family.unit {
            Unit::Seconds => assert!(name.ends_with("_seconds"), "{name}"),
            Unit::Bytes => assert!(name.ends_with("_bytes"), "{name}"),
            Unit::None => assert!(
                !name.ends_with("_seconds") && !name.ends_with("_bytes"),
                "{name}"
            ),
        }
        assert!(family.help.ends_with('.'), "{name}: {}", family.help);
        assert!(
            family.labels.len() <= 4 && !family.labels.contains(&"le"),
            "{name}"
        );
        if matches!(family.of, Of::Pool(_)) {
            assert_eq!(family.labels.first(), Some(&"database"), "{name}");
        }
    }
}
