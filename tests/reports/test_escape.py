import pandas as pd

from fp_bench.reports import escape
from fp_bench.reports.table import Table

ODD = "\x1b[31mred\x1b[0m <b>&|`$x$ [l](http://e) \u202e\nnext \x00"


def test_a_terminal_is_not_steered():
    shown = escape.one_line(ODD)
    assert shown.isprintable()
    assert r"\x1b[31mred\x1b[0m" in shown


def test_markdown_has_no_html_no_links_no_code_and_no_formulas():
    assert escape.markdown(ODD) == (
        r"\\x1b\[31mred\\x1b\[0m &lt;b&gt;&amp;\|\`\$x\$ \[l\](http://e) \\u202e next \\x00"
    )
    assert escape.prose("`a:b=1` takes 3 ms on <x>") == "`a:b=1` takes 3 ms on &lt;x&gt;"


def test_a_fence_is_longer_than_any_in_it():
    assert escape.fenced("a\n````\nb") == "`````\na\n````\nb\n`````"


def test_nothing_is_a_command_in_latex():
    assert escape.latex(r"\input{x} 5% $a_b^c$ #&~") == (
        r"\textbackslash{}input\{x\} 5\% \$a\_b\textasciicircum{}c\$ \#\&\textasciitilde{}"
    )


def test_no_text_is_a_formula_in_a_spreadsheet():
    table = pd.DataFrame({"a": ["=1+1", "@x", "-a", "ok", None], "b": [-1.5, 2, 3, 4, 5]})
    assert escape.csv(table).splitlines() == ["a,b", "'=1+1,-1.5", "'@x,2.0", "'-a,3.0", "ok,4.0", ",5.0"]


def test_a_table_of_odd_texts_is_shown_in_every_form(capsys):
    from fp_bench.cli.terminal import say, show_tables

    table = Table(ODD, ["", ODD], [["", ODD], ["", "="]], numbers=1)
    show_tables([table])
    say(ODD)
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err
    assert "<b>" not in table.markdown()
    assert len(table.markdown().splitlines()) == 4
    assert "$x$" not in table.latex()
