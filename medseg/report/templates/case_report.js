"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.documentElement.classList.add("js");
  const byId = (id) => document.getElementById(id);

  const save = (name, text, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    const status = byId("saved");
    if (status) status.textContent = name;
  };
  const onClick = (id, act) => byId(id)?.addEventListener("click", act);

  const review = () => ({
    schema: "medseg.review/1",
    pipeline: data.pipeline,
    run: data.run,
    settings_sha256: data.settings_sha256,
    saved: new Date().toISOString(),
    reviews: [{
      case_id: data.case_id,
      decision: document.querySelector("#review input[name=decision]:checked")?.value ?? null,
      reader: byId("reader").value,
      note: byId("note").value,
      verdict: data.verdict,
      files: data.files,
    }],
  });
  onClick("save-review", () => save("review.json", JSON.stringify(review(), null, 1) + "\n", "application/json"));
  onClick("save-csv", () => save("measurements.csv", data.table, "text/csv"));
  onClick("save-json", () => save("measurements.json", JSON.stringify(data.measurements, null, 1) + "\n", "application/json"));

  const key = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
  const compare = (column, sign) => (a, b) => {
    const x = key(a, column), y = key(b, column);
    if (x === "–" || y === "–") return (x === "–") - (y === "–");
    const gap = Number(x) - Number(y);
    return sign * (Number.isNaN(gap) ? x.localeCompare(y, undefined, { numeric: true }) : gap);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare(column, down ? -1 : 1)));
      });
    });
  }
})();
