"""Made-up verdicts and runs, and a page whose every text is hostile."""

from html.parser import HTMLParser

from experiments.report import gather, page
from lth_jax.analysis.stats import Claim, Verdict

HOSTILE = "<script>window.taken = 1</script>\"'><img src=http://example.org/x onerror=alert(1)> & | `*_"


def make_verdict(text="a beats b", verdict="supported", identifier="one", **fields):
    claim = Claim(identifier, fields.pop("document", "000"), text, "published", "greater", 0.5)
    defaults = {"estimate": 1.25, "low": 0.75, "high": 1.5, "p_value": 0.01, "n": 11, "adjusted_p": 0.02}
    return Verdict(claim, verdict=verdict, note=fields.pop("note", ""), **{**defaults, **fields})


def make_run(place="xor", verdicts=(), **fields):
    defaults = {"attrs": {"experiment": "xor", "preset": "quick"}, "table": ("T", ["a", "b"], [["1", "2"]])}
    return gather.Run(place, fields.pop("title", "A run"), verdicts=tuple(verdicts), **{**defaults, **fields})


def make_hostile_page():
    verdict = make_verdict(HOSTILE, document=HOSTILE, note=HOSTILE)
    run = make_run(
        HOSTILE,
        [verdict],
        title=HOSTILE,
        attrs={"preset": HOSTILE, "device": HOSTILE, "commit": HOSTILE},
        table=(HOSTILE, [HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]]),
        notes=f"## {HOSTILE}\n\n![x](http://example.org/y.png)\n\n| a |\n| --- |\n| {HOSTILE} |",
        config={HOSTILE: HOSTILE},
        remarks=(HOSTILE,),
        diverged=(HOSTILE,),
    )
    return page.text([run, run._replace(problem=HOSTILE)])


class Seen(HTMLParser):
    """Every start tag with its attributes, and the text outside of script and style."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self._inside = [], "", None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self._inside = tag
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]
