typedef int report_unused;
