//! Bodies that operators write themselves, in the language of Jinja. One is tried when it is loaded,
//! so that a mistake is told then and not at night.

use minijinja::{Environment, UndefinedBehavior, Value, value::Serde};

use crate::alert::notice::{Language, Notice};

/// The longest template, and the longest body, in bytes.
const LONGEST: usize = 65_536;
/// Steps that one may take: a loop in it ends.
const FUEL: u64 = 200_000;

/// What a template makes of a message.
///
/// # Errors
/// Says what is wrong, and on which line.
pub(super) fn render(template: &str, data: &serde_json::Value) -> Result<String, String> {
    if template.len() > LONGEST {
        return Err(format!("it is longer than {LONGEST} bytes"));
    }
    let environment = environment();
    let rendered = environment
        .template_from_str(template)
        .and_then(|template| template.render(Value::from(Serde(data))));
    let rendered = rendered.map_err(|error| told(&error))?;
    if rendered.len() > LONGEST {
        return Err(format!("what it makes is longer than {LONGEST} bytes"));
    }
    Ok(rendered)
}

/// Whether it makes something of a message, and names nothing that no message has.
///
/// # Errors
/// Says what is wrong, and on which line.
pub fn check(template: &str) -> Result<(), String> {
    let data = Notice::example().data(Language::En, "0");
    render(template, &data)?;
    let environment = environment();
    let parsed = environment.template_from_str(template);
    let named = parsed.map_err(|error| told(&error))?;
    let is_known = |name: &String| {
        data.get(name).is_some() || environment.globals().any(|(known, _)| known == name)
    };
    let mut unknown: Vec<_> = named.undeclared_variables(false).into_iter().collect();
    unknown.retain(|name| !is_known(name));
    unknown.sort();
    match unknown.first() {
        None => Ok(()),
        Some(name) => {
            let known = data.as_object().into_iter().flat_map(|it| it.keys());
            let known: Vec<_> = known.map(String::as_str).collect();
            Err(format!(
                "there is no '{name}' in a message: expected one of {}",
                known.join(", ")
            ))
        }
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // Not every alert has each label; what is not there is an empty text then.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    environment.set_fuel(Some(FUEL));
    environment
}

fn told(error: &minijinja::Error) -> String {
    let line = error.line();
    let line = line.map_or_else(String::new, |line| format!("line {line}: "));
    let what = error.detail().map(str::to_owned);
    format!("{line}{}", what.unwrap_or_else(|| error.kind().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alert::{notice::tests::notice, state::Telling};

    #[test]
    fn a_template_is_given_all_that_is_known() {
        let data = notice(Telling::Fired).data(Language::En, "abc");
        let text = "{\"who\": {{ labels.server | tojson }}, \"by\": {{ value * 1000 }}, \
                    \"state\": \"{{ state | upper }}\", \"id\": \"{{ delivery_id }}\"}";
        let rendered = render(text, &data).unwrap();
        let value: serde_json::Value = serde_json::from_str(&rendered).unwrap();
        assert_eq!(value["who"], "192.0.2.1");
        assert_eq!(value["by"], 61.2);
        assert_eq!(value["state"], "FIRING");
        assert_eq!(value["id"], "abc");
    }

    #[test]
    fn one_that_does_not_parse_or_names_what_is_not_there_is_refused() {
        for (wrong, part) in [
            ("{{ rule", "line 1"),
            ("a\n{% if %}", "line 2"),
            ("{{ nothing.at.all }}", "'nothing'"),
            ("{{ rlue }}", "'rlue'"),
            ("{{ rule | no_such_filter }}", "no_such_filter"),
            (
                "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
                "",
            ),
        ] {
            let error = check(wrong).unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
        assert!(check(&"a".repeat(LONGEST + 1)).is_err());
        assert_eq!(
            check("{{ rule }}{% if value %}{{ value }}{% endif %}"),
            Ok(())
        );
        assert_eq!(
            check("{{ labels.server }}"),
            Ok(()),
            "not every alert has each label"
        );
    }
}
