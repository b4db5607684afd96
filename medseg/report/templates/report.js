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

  const review = () => ({
    schema: "medseg.review/1",
    pipeline: data.pipeline,
    run: data.run,
    settings_sha256: data.settings_sha256,
    saved: new Date().toISOString(),
    reviews: [...document.querySelectorAll("fieldset[data-case]")].map((box) => {
      const chosen = box.querySelector("input:checked");
      const found = data.cases.find((c) => c.case_id === box.dataset.case);
      return {
        case_id: box.dataset.case,
        decision: chosen ? chosen.value : null,
        note: box.querySelector("textarea").value,
        verdict: found.measurements.verdict,
        files: found.files,
      };
    }),
  });
  onClick("save-json", () => save("report.json", JSON.stringify(data, null, 1), "application/json"));
  onClick("save-csv", () => save("measurements.csv", data.table, "text/csv"));
  onClick("save-review", () => save("review.json", JSON.stringify(review(), null, 1), "application/json"));

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
})();
