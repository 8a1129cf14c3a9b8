"""CSV files as people and other programs write them, and numbers as people write them."""

import numpy as np
import pytest

from cpvae import data
from cpvae.data.numerals import numbers_of

N = 30
WIDTH = np.round(np.arange(N) / 7 - 1, 2)
AGE = 20 + np.arange(N) % 11
LINES = [f"{w:.2f},{a}" for w, a in zip(WIDTH, AGE, strict=True)]
PLAIN = "width,age\n" + "\n".join(LINES) + "\n"
EUROPEAN = PLAIN.replace(",", ";").replace(".", ",")


@pytest.fixture
def read(tmp_path):
    """Reads the content of a file, and splits it, which refuses more."""

    def of(content: str | bytes, name: str = "t.csv", **what):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        source = data.read(tmp_path / name, **what)
        data.split(source)
        return source

    return of


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (PLAIN, ""),
        (PLAIN.replace("\n", "\r\n"), ""),
        (PLAIN.replace("\n", "\r"), ""),
        (PLAIN.encode("utf-8-sig"), ""),
        (PLAIN.encode("utf-16"), ""),
        (PLAIN.encode("utf-16-le"), "read as UTF-16-LE"),
        (PLAIN.encode("utf-16-be"), "read as UTF-16-BE"),
        (PLAIN.encode("utf-32"), ""),
        (EUROPEAN, "column width: '-1,00' is read as -1"),
        ("sep=;\n" + EUROPEAN, "column width"),
        ('"sep=|"\n' + PLAIN.replace(",", "|"), "parted by '|'"),
        (PLAIN.replace(",", "\t"), ""),
        (PLAIN.replace(",", "|"), "parted by '|'"),
        (PLAIN.replace(",", "   "), "parted by spaces"),
        (PLAIN.replace(",", ", "), ""),
        (PLAIN.replace("\n", ",\n"), "neither a name nor values"),
        (PLAIN.replace("\n", ",\n").replace("age,", "age"), "neither a name nor values"),
        ("Table 5,\n" + PLAIN, "line above the header, 'Table 5', left out"),
        ("Table 5\n\nof 2020\n" + PLAIN, "2 lines above the header, 'Table 5', left out"),
        ("# one, two\n# three\n" + PLAIN, "2 lines above the header, '# one two', left out"),
        (PLAIN.replace("-", "\u2212"), "'\u22121.00' is read as -1"),
        (PLAIN.replace("-", "\u2013"), "'\u20131.00' is read as -1"),
        (PLAIN + ",\n,\n", "2 empty rows at the end"),
    ],
)
def test_one_table_in_many_dialects(read, content, told):
    source = read(content)
    assert source.columns == ("width", "age")
    np.testing.assert_allclose(source.x, np.column_stack([WIDTH, AGE]), rtol=1e-6)
    assert told in " ".join(source.notes)
    assert bool(told) == bool(source.notes)


def test_letters_of_western_europe_are_read_and_told(read):
    towns = "M\u00fcnchen", "K\u00f6ln"
    rows = "\n".join(f"{a},{towns[a % 2]}" for a in AGE)
    source = read(f"Gr\u00f6\u00dfe,stadt\n{rows}".encode("latin-1"))
    assert source.columns == ("Gr\u00f6\u00dfe", "stadt")
    assert source.levels == {"stadt": sorted(towns)}
    assert "is not UTF-8 and is read as cp1252" in source.notes[0]
    assert "'Gr\u00f6\u00dfe'" in source.notes[0]
    euros = "\n".join(f"{a},{a}.5 \u20ac" for a in AGE)
    np.testing.assert_allclose(read(f"a,b\n{euros}".encode("cp1252")).x[:, 1], AGE + 0.5)
    with pytest.raises(ValueError, match="is no text"):
        read(bytes(range(32)) * 9)


def test_names_of_columns(read):
    numbers = "\n".join(LINES)
    assert read(f"2019,2020\n{numbers}").columns == ("2019", "2020")
    assert read(f"0,1\n{numbers}").columns == ("0", "1")
    assert read(f"#id,h\n{numbers}").columns == ("#id", "h")
    assert read(f" w , h\n{numbers}").columns == ("w", "h")
    quoted = EUROPEAN.replace("width;age", '"w, in kg";"h, in m"')
    assert read(quoted).columns == ("w, in kg", "h, in m")
    three = "\n".join(f"{line},{i % 3}" for i, line in enumerate(LINES))
    source = read(f"a,,b\n{three}")
    assert source.columns == ("a", "column 2", "b")
    assert "called 'column 2'" in source.notes[0]
    for content, said in [
        ("1.5,7\n" + numbers, "a header with the names"),
        ("1,2\n" * 9, "a header with the names"),
        ("5.1,setosa\n" + "\n".join(f"{w},setosa\n{w},other" for w in WIDTH), "first line, 5.1, s"),
    ]:
        with pytest.raises(ValueError, match=said):
            read(content)


def test_the_names_of_rows_are_no_column(read):
    for first in (range(N), range(1, N + 1), np.random.default_rng(0).permutation(N)):
        rows = "\n".join(f"{i},{line}" for i, line in zip(first, LINES, strict=True))
        source = read(f",width,age\n{rows}")
        assert source.columns == ("width", "age")
        assert source.notes == (
            "the first column, which has no name, is the index of the rows, and is not fitted",
        )
    shuffled = read(f"Unnamed: 0,width,age\n{rows}").schema
    assert (shuffled.columns, shuffled.ids) == (("width", "age"), ["Unnamed: 0"])
    running = "\n".join(f"{i},{line}" for i, line in enumerate(LINES))
    assert read(f"Unnamed: 0,width,age\n{running}").columns == ("width", "age")
    assert read(f"index,width,age\n{running}", label="index").columns == ("width", "age")
    two = "\n".join(f"{i // 5},{i % 5},{line}" for i, line in enumerate(LINES))
    assert read(f",,width,age\n{two}").columns == ("width", "age")
    of_r = "\n".join(f'"{i}",{line}' for i, line in enumerate(LINES, start=1))
    assert read(f'"width","age"\n{of_r}').columns == ("width", "age")
    model = read(f",width,age\n{running}").schema
    np.testing.assert_array_equal(read(PLAIN, schema=model).x, read(PLAIN).x)
    alone = "\n".join(str(w) for w in WIDTH)
    assert read("width\n" + alone).columns == ("width",)


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["12%", "7 %", "3.5\u00a0%"], [12, 7, 3.5]),
        (["$20.00", "$1,234.50", "-$5", "$-6"], [20, 1234.5, -5, -6]),
        (["20,00 \u20ac", "1.234,50 \u20ac"], [20, 1234.5]),
        (["CHF 20", "7"], [20, 7]),
        (["R$ 5", "US$7"], None),
        (["2,500", "250", "1,000,000"], [2500, 250, 1e6]),
        (["20,5", "30"], [20.5, 30]),
        (["0,125", "30"], [0.125, 30]),
        (["1 234", "7", "1\u202f234\u00a0567"], [1234, 7, 1234567]),
        (["1'234.5", "1\u2019000"], [1234.5, 1000]),
        (["1,00,000", "50,000"], [100000, 50000]),
        (["(1,200)", "30", "40-"], [-1200, 30, -40]),
        (["+5", ".5", "5.", "1e3"], [5, 0.5, 5, 1000]),
        (["1.234.567", "950"], [1234567, 950]),
        ([f"{i} kg" for i in range(12)], list(range(12))),
        (["4 kg", "5 kg"], None),
        (["$", "$$"], None),
        (["3+", "2"], None),
        (["12:30", "7"], None),
        (["2020-01-02"], None),
        (["1-2", "3"], None),
        (["12 34"], None),
        (["12%", "0.5"], None),
        (["a1", "2"], None),
    ],
)
def test_numbers_of_a_column_are_read_together(cells, numbers):
    assert numbers_of(cells) == numbers


def test_a_comma_of_three_digits_is_what_the_rest_says():
    assert numbers_of(["1,234", "5.25"]) == [1234, 5.25]
    assert numbers_of(["1,234", "5,2"]) == [1.234, 5.2]
    assert numbers_of(["1,234"]) == [1234]
    assert numbers_of(["1,234"], comma=True) == [1.234]
    assert numbers_of(["1.234"], comma=True) == [1234]
    with pytest.raises(ValueError, match=r"both '5.5' and '1,5'"):
        numbers_of(["1,5", "5.5"])


def test_a_table_has_one_decimal_mark(read):
    rows = "\n".join(f"{a},5;1.{a}0;{a}" for a in AGE)
    source = read(f"h;revenue;n\n{rows}")
    np.testing.assert_allclose(source.x, np.column_stack([AGE + 0.5, 1000 + 10 * AGE, AGE]))
    rows = "\n".join(f"{a},5;{a}.5" if a % 2 else f"{a}.5;2" for a in AGE)
    with pytest.raises(ValueError, match="column h has numbers written in two ways, both"):
        read(f"h;x\n{rows}")


def test_a_few_mistakes_among_numbers_are_named(read):
    rows = [f"{i % 7},{3 * i}" for i in range(60)]
    rows[41] = "2,n.k."
    with pytest.raises(ValueError, match=r"column x holds 'n.k.' in row 42 and numbers in most"):
        read("h,x\n" + "\n".join(rows))
    few = "\n".join(f"{i},{('0', '1', '2', '3+')[i % 4]}" for i in range(N))
    assert read(f"h,x\n{few}").levels == {"x": ["0", "1", "2", "3+"]}


def test_codes_that_are_declared_keep_their_zeros(read):
    rows = "\n".join(f"{w},{('00501', '02139', '')[i % 3]}" for i, w in enumerate(WIDTH))
    assert read(f"h,zip\n{rows}", kinds={"zip": "categorical"}).levels == {
        "zip": ["00501", "02139"]
    }
    spaced = rows.replace(",", ', "').replace("\n", '"\n') + '"'
    assert read(f"h, zip\n{spaced}", kinds={"zip": "categorical"}).levels == {
        "zip": ["00501", "02139"]
    }


@pytest.mark.parametrize(
    ("fitted", "new", "found"),
    [
        (["01", "02", "x"], ["02", "01"], [1, 0]),
        (["01", "02", "x"], ["1", "2"], [0, 1]),
        (["1.0", "2.0", "x"], ["2", "1"], [1, 0]),
        (["True", "False", "maybe"], ["TRUE", "false"], [1, 0]),
        (["True", "False"], ["1", "0"], [1, 0]),
        (["True", "False"], ["no", "yes"], [0, 1]),
        (["0", "1", "2"], ["True", "False"], [1, 0]),
        (["1,5", "2,5"], ["1.5", "2.5"], [1.5, 2.5]),
        (["a", "b"], ["a", "NA"], [0, np.nan]),
    ],
)
def test_new_cells_that_look_like_another_type_alone(read, fitted, new, found):
    def table(cells):
        return "h;c\n" + "\n".join(f"{i % 4};{c}" for i, c in enumerate(cells * 9))

    known = read(table(fitted)).schema
    np.testing.assert_array_equal(read(table(new), schema=known).x[:2, 1], found)


def test_cells_that_hold_marks_of_the_file(read):
    text = "\n".join(f'{i},"a, ""{i % 2}""\nb"' for i in range(N))
    assert read(f'h,"c\nd"\n{text}').levels == {"c\nd": ['a, "0"\nb', 'a, "1"\nb']}
    names = "\n".join(f"Doe, J{i % 3};{i}" for i in range(N))
    assert read(f"name;x\n{names}").levels == {"name": ["Doe, J0", "Doe, J1", "Doe, J2"]}
    with pytest.raises(ValueError, match=r"line 2 has not the 2 cells .* \(quote cells that have"):
        read("name,x\n" + names.replace(";", ","))
