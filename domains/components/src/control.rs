//! Debian's control syntax (Debian Policy §5.1, §7.1): paragraphs of fields, and lists of relations.

/// A paragraph: fields in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Paragraph {
    /// Name and value; a value of several lines keeps them as they are.
    pub fields: Vec<(String, String)>,
}

impl Paragraph {
    /// A field, by its name in any case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Its relations of one kind, for example `Depends`.
    pub fn relations(&self, name: &str) -> Vec<Vec<Relation>> {
        relations(self.get(name).unwrap_or_default())
    }
}

/// Every paragraph of a text.
pub fn paragraphs(text: &str) -> Vec<Paragraph> {
    let mut all = Vec::new();
    let mut now = Paragraph::default();
    for line in text.lines() {
        if line.trim().is_empty() {
            if !now.fields.is_empty() {
                all.push(std::mem::take(&mut now));
            }
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = now.fields.last_mut() {
                value.push('\n');
                value.push_str(line);
            }
        } else if let Some((name, value)) = line.split_once(':') {
            now.fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    if !now.fields.is_empty() {
        all.push(now);
    }
    all
}

/// One alternative of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Package, without its architecture.
    pub name: String,
    /// Operator and version.
    pub version: Option<(String, String)>,
}

/// `a (>= 1), b | c` as a list of alternatives.
pub fn relations(text: &str) -> Vec<Vec<Relation>> {
    let one = |alternative: &str| {
        let (name, rest) = match alternative.split_once('(') {
            Some((name, rest)) => (name, rest.split(')').next()),
            None => (alternative, None),
        };
        let name = name.split(['[', '<']).next().unwrap_or_default().trim();
        let name = name.split(':').next().unwrap_or_default();
        let version = rest.map(|r| {
            let operator: String = r.trim().chars().take_while(|c| "<>=".contains(*c)).collect();
            (operator.clone(), r.trim()[operator.len()..].trim().to_owned())
        });
        Relation { name: name.to_owned(), version }
    };
    text.split(',')
        .map(|group| group.split('|').map(str::trim).filter(|a| !a.is_empty()).map(one).collect::<Vec<_>>())
        .filter(|group| !group.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_and_relations_read() {
        let text =
            "Package: a\nDepends: b (>= 1.2), c:any | d [amd64],\n e\nDescription: x\n y\n\n\nPackage: z\n";
        let all = paragraphs(text);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("description"), Some("x\n y"));
        let deps = all[0].relations("Depends");
        let names: Vec<Vec<&str>> =
            deps.iter().map(|g| g.iter().map(|r| r.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["b"], vec!["c", "d"], vec!["e"]]);
        assert_eq!(deps[0][0].version, Some((">=".into(), "1.2".into())));
    }
}
