module github.com/millrace/millrace/packaging/nfpm

go 1.26.8
