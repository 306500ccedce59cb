#compdef millrace
# Completion of millrace(1) for zsh: the program itself knows what fits.
_millrace() {
	local value help
	local -a list
	while IFS=$'\t' read -r value help; do
		list+=("${value//:/\\:}:$help")
	done < <("${words[1]}" __complete -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)
	if (( $#list )); then
		_describe millrace list
	else
		_files
	fi
}
if [ "$funcstack[1]" = _millrace ]; then
	_millrace "$@"
else
	compdef _millrace millrace
fi
