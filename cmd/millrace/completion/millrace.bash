# Completion of millrace(1) for bash: the program itself knows what fits, and gives only
# words that need no quotes.
_millrace() {
	local value cur=${COMP_WORDS[COMP_CWORD]}
	case $cur in
	[\"\']*) cur=${cur:1} ;;
	*) cur=${cur//\\/} ;;
	esac
	COMPREPLY=()
	while IFS=$'\t' read -r value _; do
		COMPREPLY+=("$value")
	done < <("${COMP_WORDS[0]}" __complete -- "${COMP_WORDS[@]:1:COMP_CWORD-1}" "$cur" 2>/dev/null)
}
complete -o default -F _millrace millrace
