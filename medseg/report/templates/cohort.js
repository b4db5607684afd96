"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.documentElement.classList.add("js");

  const save = (name, text, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  const onClick = (id, act) => {
    const button = document.getElementById(id);
    if (button) button.addEventListener("click", act);
  };

  onClick("save-json", () => save("report.json", JSON.stringify(data, null, 1), "application/json"));
  const cell = (value) => {
    const text = value === null ? "" : String(value);
    const safe = typeof value === "string" && /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const wide = () => [data.columns, ...data.rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  onClick("save-csv", () => save(data.table ? "measurements.csv" : "cases.csv", data.table || wide(), "text/csv"));

  const table = document.getElementById("cases-table");
  if (!table) return;
  const heads = [...table.tHead.rows[0].cells];
  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const sign = down ? -1 : 1;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const x = key(a, column), y = key(b, column);
      if (x === "" || y === "") return (x === "") - (y === "");
      const gap = Number(x) - Number(y);
      return sign * (Number.isNaN(gap) ? x.localeCompare(y, "en", { numeric: true }) : gap);
    });
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    table.tBodies[0].append(...rows);
  }));

  const field = (name) => document.getElementById(`filter-${name}`);
  const boxes = [...document.querySelectorAll(".filter input[type=checkbox]")];
  const count = field("count");
  const filter = () => {
    const text = field("text").value.trim().toLowerCase();
    const code = field("code")?.value ?? "", split = field("split")?.value ?? "";
    const hidden = boxes.filter((box) => !box.checked).map((box) => box.className.replace("f-", "r-"));
    const rows = [...table.tBodies[0].rows];
    let shown = 0;
    for (const row of rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(text)
        || (code !== "" && !row.dataset.codes.split(" ").includes(code))
        || (split !== "" && row.dataset.split !== split);
      if (!row.hidden && !hidden.includes(row.className)) shown += 1;
    }
    count.textContent = count.dataset.text.replace("{n}", shown).replace("{of}", rows.length);
  };
  ["text", "code", "split"].forEach((name) => field(name)?.addEventListener("input", filter));
  boxes.forEach((box) => box.addEventListener("change", filter));
  filter();
})();
