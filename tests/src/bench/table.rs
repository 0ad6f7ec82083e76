//! Figures of several runs, each as least, median and greatest.

use std::fmt;

/// Rows in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, Vec<f64>)>,
}

impl Table {
    /// One run's figure.
    pub(crate) fn add(&mut self, name: impl Into<String>, figure: f64) {
        let name = name.into();
        println!("  {name}: {}", short(figure));
        self.row(name).push(figure);
    }

    /// Many figures of one kind, and in a row of its own what 99 of 100 of them are below.
    pub(crate) fn add_all(&mut self, name: &str, mut figures: Vec<f64>) {
        figures.sort_unstable_by(f64::total_cmp);
        let place = (figures.len() * 99 / 100).min(figures.len().saturating_sub(1));
        let Some(&p99) = figures.get(place) else { return };
        println!("  {name}: {} figures", figures.len());
        self.row(name.to_owned()).append(&mut figures);
        self.add(format!("{name}, p99"), p99);
    }

    fn row(&mut self, name: String) -> &mut Vec<f64> {
        let at = self.rows.iter().position(|(row, _)| *row == name);
        let at = at.unwrap_or_else(|| {
            self.rows.push((name, Vec::new()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | min | median | max |\n|---|---|---|---|")?;
        for (name, figures) in &self.rows {
            let mut figures = figures.clone();
            figures.sort_unstable_by(f64::total_cmp);
            let (least, greatest) = (figures[0], figures[figures.len() - 1]);
            let median = figures[figures.len() / 2];
            writeln!(
                f,
                "| {name} | {} | {} | {} |",
                short(least),
                short(median),
                short(greatest)
            )?;
        }
        Ok(())
    }
}

/// About three digits; counts as they are.
fn short(figure: f64) -> String {
    if figure >= 100.0 || figure.fract() == 0.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.2}")
    }
}
