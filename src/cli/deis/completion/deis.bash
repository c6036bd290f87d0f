# Completion of deis for bash, by `deis completion bash`.
_deis() {
    local line=${COMP_LINE:0:COMP_POINT} words prefix fragment=$2 proposal
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    # bash takes a word apart at : and =, and wants only the last part of it.
    [[ $fragment == [:=] ]] && fragment=
    prefix=${words[-1]%"$fragment"}
    COMPREPLY=()
    while IFS=$'\t' read -r proposal _; do
        if [[ $proposal == :files ]]; then
            compopt -o default
            return
        fi
        COMPREPLY+=("${proposal#"$prefix"}")
    done < <(deis __complete -- "${words[@]}" 2>/dev/null)
}
complete -F _deis deis
